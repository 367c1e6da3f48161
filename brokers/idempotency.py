"""Requests that a client may send twice under one key, and that are worked on once.

The ids of a request's jobs are reserved before anything is done with them. A request that was not
seen through, because its process is gone, is taken over by the next one with the same key, and by
its ids. What was seen through is remembered for a day.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from brokers import subjects
from brokers.nats.buckets import Bucket, Key
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed, ConnectionFailed, RevisionConflict

MAX_AGE = 86_400.0
"""Seconds that a key is remembered."""
LEASE_SECONDS = 30.0
"""How long one request may be worked on before another one takes it over."""

log = logging.getLogger(__name__)


class KeyReused(Exception):
    """The key belongs to another request."""


class KeyBusy(Exception):
    """The same request is being worked on."""

    def __init__(self, seconds: float) -> None:
        """`seconds` until it can be taken over, if nobody sees it through."""
        super().__init__("a request with this key is being worked on")
        self.seconds = seconds


class Stage(StrEnum):
    """How far the request with a key has come."""

    NEW = "new"
    """It is ours, and nothing was done yet."""
    ABANDONED = "abandoned"
    """It is ours; somebody else has begun it, and may have done some of it."""
    DONE = "done"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    fingerprint: str
    ids: tuple[str, ...]
    done: bool = False
    leased_until: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """What a key stands for."""

    key: Key
    stage: Stage
    entry: _Entry
    revision: int

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the request's jobs, in order."""
        return self.entry.ids


class IdempotencyKeys:
    """`patience` is how long, in seconds, it waits for NATS to come back."""

    def __init__(self, connection: NatsConnection, *, patience: float) -> None:
        self._bucket = Bucket(connection, subjects.IDEMPOTENCY_BUCKET, max_age=MAX_AGE)
        self._patience = patience

    def reserve(self, caller: str, key: str, fingerprint: str, ids: Sequence[str]) -> Reservation:
        """What the caller's key stands for; if that is nothing yet, a request with these ids.

        Raises KeyReused, KeyBusy, ConnectionClosed, ConnectionFailed.
        """
        name = _digest(caller, key)
        while True:
            stored = self._bucket.get(name, patience=self._patience)
            entry, stage = _Entry(fingerprint=fingerprint, ids=tuple(ids)), Stage.NEW
            if (known := _decoded(stored.value)) is not None:
                entry, stage = known, _stage(known, fingerprint)
            found = Reservation(key=name, stage=stage, entry=entry, revision=stored.revision)
            if stage is Stage.DONE:
                return found
            try:
                return self._hold(found)
            except RevisionConflict:
                continue

    def _hold(self, found: Reservation) -> Reservation:
        entry = replace(found.entry, leased_until=time.time() + LEASE_SECONDS)
        return replace(found, entry=entry, revision=self._put(found, entry))

    def exchange(self, held: Reservation, ids: Sequence[str]) -> Reservation:
        """Other ids for a request that is ours. Raises KeyBusy when it is not any more."""
        try:
            return self._hold(replace(held, entry=replace(held.entry, ids=tuple(ids))))
        except RevisionConflict:
            raise KeyBusy(LEASE_SECONDS) from None

    def done(self, held: Reservation) -> None:
        """The request was seen through. Never fails: another one would be told the same."""
        try:
            self._put(held, replace(held.entry, done=True))
        except (ConnectionClosed, ConnectionFailed, RevisionConflict):
            log.warning("an idempotency key could not be marked as done")

    def forget(self, held: Reservation) -> None:
        """The request was refused: the next one begins anew, with ids of its own. Returns at once,
        as what refused it may be that NATS is away."""
        threading.Thread(target=self._forget, args=(held,), daemon=True).start()

    def _forget(self, held: Reservation) -> None:
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            try:
                self._put(held, replace(held.entry, ids=(), leased_until=0.0))
            except (ConnectionClosed, ConnectionFailed):
                continue
            except RevisionConflict:
                return
            return

    def _put(self, held: Reservation, entry: _Entry) -> int:
        value = json.dumps(asdict(entry)).encode()
        return self._bucket.put(held.key, value, expected=held.revision, patience=self._patience)


def _stage(entry: _Entry, fingerprint: str) -> Stage:
    """Raises KeyReused, KeyBusy."""
    if entry.fingerprint != fingerprint:
        raise KeyReused
    if entry.done:
        return Stage.DONE
    left = entry.leased_until - time.time()
    if left > 0:
        raise KeyBusy(left)
    return Stage.ABANDONED


def _digest(caller: str, key: str) -> str:
    return hashlib.sha256(json.dumps([caller, key]).encode()).hexdigest()


def _decoded(value: bytes | None) -> _Entry | None:
    """None: there is none, or it was forgotten."""
    fields = json.loads(value) if value is not None else {}
    return _Entry(**{**fields, "ids": tuple(fields["ids"])}) if fields.get("ids") else None
