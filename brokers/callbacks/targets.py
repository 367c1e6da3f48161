"""Who wants to be called about which job: a bucket of addresses, and what has reached them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from brokers import subjects
from brokers.callbacks.messages import Callback, CallbackKind
from brokers.nats.buckets import Bucket, Entry
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import RevisionConflict

KEEP_SECONDS = 8 * 86_400.0
"""After the job's end: a day of tries, and a week in which a dead letter may be replayed."""
FORGET_SECONDS = 300.0
"""When all is delivered the addresses go at once; what was delivered is known a little longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Addresses may hold secrets: they are shown nowhere."""

    callback_url: str = field(default="", repr=False)
    status_callback_url: str = field(default="", repr=False)
    delivered: tuple[str, ...] = ()
    """Ids of callbacks."""

    def url(self, kind: CallbackKind) -> str:
        """Empty: nobody wants this kind."""
        return self.callback_url if kind is CallbackKind.LOGS else self.status_callback_url

    def wants(self, callback: Callback) -> bool:
        """Whether somebody is still to be told."""
        return bool(self.url(callback.kind)) and callback.id not in self.delivered

    def with_delivered(self, callback: Callback) -> Target:
        """Empty when the job is over and everybody knows."""
        after = replace(self, delivered=tuple(dict.fromkeys((*self.delivered, callback.id))))
        missing = [kind for kind in CallbackKind if after.url(kind)]
        known = all(callback.id_as(kind) in after.delivered for kind in missing)
        return Target(delivered=after.delivered) if callback.state.final and known else after


class CallbackTargets:
    """While a job lives its addresses are kept for `max_age` seconds after the last change; once it
    has ended, for KEEP_SECONDS at most."""

    def __init__(self, connection: NatsConnection, *, max_age: float) -> None:
        self._bucket = Bucket(
            connection, subjects.TARGET_BUCKET, max_age=max(max_age, KEEP_SECONDS)
        )

    def put(self, job_id: str, callback_url: str, status_callback_url: str) -> None:
        """Before the job's first state is told; again before a job that had ended is retried."""
        target = Target(callback_url=callback_url, status_callback_url=status_callback_url)
        self._bucket.put(job_id, _encoded(target))

    def get(self, job_id: str) -> Target | None:
        """None: nobody wants to be called, or everybody was, or it was too long ago."""
        return _decoded(self._bucket.get(job_id))

    def delete(self, job_id: str) -> None:
        """Nobody is called any more. Deleting what is not there is no error."""
        self._bucket.delete(job_id)

    def expire(self, job_id: str) -> None:
        """The job has ended: keep its addresses for KEEP_SECONDS."""
        self._change(job_id, lambda target: target, final=True)

    def mark(self, callback: Callback) -> None:
        """It was delivered. When nothing more is to come the addresses are removed."""
        self._change(
            callback.job_id,
            lambda target: target.with_delivered(callback),
            final=callback.state.final,
        )

    def _change(self, job_id: str, change: Callable[[Target], Target], *, final: bool) -> None:
        while True:
            entry = self._bucket.get(job_id)
            target = _decoded(entry)
            if target is None:
                return
            changed = change(target)
            ttl = _ttl(entry, changed, final)
            try:
                self._bucket.put(job_id, _encoded(changed), ttl=ttl, expected=entry.revision)
            except RevisionConflict:
                continue
            return

    def close(self) -> None:
        """Hang up. Idempotent; the connection stays."""
        self._bucket.close()


def _ttl(entry: Entry, target: Target, final: bool) -> float | None:
    """What ends earlier stays so."""
    left = max(1.0, entry.expires_at - time.time())
    if not (target.callback_url or target.status_callback_url):
        return min(left, FORGET_SECONDS)
    if final:
        return min(left, KEEP_SECONDS)
    return left if left != float("inf") else None


def _encoded(target: Target) -> bytes:
    return json.dumps(asdict(target)).encode()


def _decoded(entry: Entry) -> Target | None:
    if entry.current is None:
        return None
    data: dict[str, Any] = json.loads(entry.current)
    return Target(
        callback_url=data.get("callback_url", ""),
        status_callback_url=data.get("status_callback_url", ""),
        delivered=tuple(data.get("delivered", ())),
    )
