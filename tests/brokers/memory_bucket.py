"""A bucket without a server: the same compare-and-set, and every request can be delayed or lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from brokers.nats.buckets import PATIENCE, Key
from brokers.nats.connection import NatsConnection
from brokers.nats.entries import Entry
from brokers.nats.errors import ConnectionClosed, RevisionConflict
from brokers.nats.wire import Wire
from tests.brokers.interleaving import patiently, request

T = TypeVar("T")


class MemoryBucket:
    """What job records and payloads need of `brokers.nats.buckets.Bucket`.

    `written` is called with each write that is accepted. While it is `away`, nobody answers.
    """

    def __init__(self, *, history: int = 1) -> None:
        self.away = False
        self.stream = "KV_MEMORY"
        self.written: Callable[[Key, Entry], None] = lambda key, entry: None
        self._history = history
        self._entries: dict[Key, list[Entry]] = {}
        self._revision = 0
        self._messages = 0

    def get(self, key: Key, *, patience: float = PATIENCE) -> Entry:
        return self._ask(lambda: self._last(key), patience)

    def history(self, key: Key, *, patience: float = PATIENCE) -> list[Entry]:
        return self._ask(lambda: list(self._entries.get(key, ())), patience)

    def put(
        self,
        key: Key,
        value: bytes,
        *,
        ttl: float | None = None,
        expected: int | None = None,
        patience: float = PATIENCE,
    ) -> int:
        self._messages += 1
        message_id = str(self._messages)

        def attempt() -> int:
            try:
                return request(lambda: self._write(key, value, expected, message_id))
            except RevisionConflict:
                entry = request(lambda: self._last(key))
                if entry.message_id != message_id:
                    raise
                return entry.revision

        self._check(patience)
        return patiently(attempt)

    def create_many(
        self, items: Sequence[tuple[Key, bytes]], *, patience: float = PATIENCE
    ) -> None:
        self._ask(lambda: self._create_all(items), patience)

    def create_together(
        self, items: Sequence[tuple[MemoryBucket, Key, bytes]], *, patience: float = PATIENCE
    ) -> None:
        def create() -> None:
            for bucket, key, value in items:
                bucket._create_all([(key, value)])

        self._ask(create, patience)

    def delete(self, key: Key) -> None:
        self._ask(lambda: self._write(key, None, None, ""), PATIENCE)

    def erase(self, prefix: tuple[str, ...], *, patience: float = PATIENCE) -> None:
        self._ask(lambda: self._erase(prefix), patience)

    def keys(self) -> list[str]:
        return self._ask(lambda: ["".join(key) for key in self._entries], PATIENCE)

    def tuples(self) -> list[tuple[str, ...]]:
        """The keys as they were given, without a request."""
        return [key for key in self._entries if isinstance(key, tuple)]

    def _ask(self, act: Callable[[], T], patience: float) -> T:
        self._check(patience)
        return patiently(lambda: request(act))

    def _check(self, patience: float) -> None:
        if self.away:
            assert patience < math.inf, "it waits for ever"
            raise ConnectionClosed("NATS is away")

    # What the server does

    def _last(self, key: Key) -> Entry:
        entries = self._entries.get(key)
        return entries[-1] if entries else Entry(None, 0)

    def _write(self, key: Key, value: bytes | None, expected: int | None, message_id: str) -> int:
        last = self._last(key).revision
        if expected is not None and expected != last:
            raise RevisionConflict(f"wrong last sequence: {last}")
        self._revision += 1
        entry = Entry(value, self._revision, message_id=message_id)
        self._entries[key] = [*self._entries.get(key, ()), entry][-self._history :]
        self.written(key, entry)
        return entry.revision

    def _create_all(self, items: Sequence[tuple[Key, bytes]]) -> None:
        for key, value in items:
            if not self._last(key).revision:
                self._write(key, value, 0, "")

    def _erase(self, prefix: tuple[str, ...]) -> None:
        for key in list(self._entries):
            if isinstance(key, tuple) and key[: len(prefix)] == prefix and key != prefix:
                del self._entries[key]


class NoConnection(NatsConnection):
    """For stores whose bucket is replaced: nobody is to be reached through it."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def open_wire(self) -> Wire:
        raise ConnectionClosed("there is none")
