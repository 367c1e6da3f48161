"""Rate limiters in a key-value bucket: every change is a compare-and-set."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Unpack

from dramatiq.rate_limits import RateLimiterBackend

from .buckets import Bucket, Key, Storage
from .compare_and_set import Changes, Write
from .connection import NatsConnection
from .servers import DEFAULT_URL, ConnectArguments
from .streams import encode
from .watches import wait

_Keys = Callable[[], Iterable[str]]
_Counts = dict[str, tuple[int, int]]
"""Count and end (ms since the epoch) of each key of a group, by what follows the last `@`."""


class NatsRateLimiterBackend(RateLimiterBackend):
    """`RateLimiterBackend` on NATS. TTLs and timeouts are in milliseconds, as Dramatiq's are.

    A `connection` may be shared with the broker; without one, `url`, `servers` and `login` are as
    the broker's. `storage` and `replicas` are the bucket's: what is kept in memory is gone when
    NATS restarts, and the storage of a bucket that exists can't be changed (JetStreamError).

    Limits are exact for any number of threads and processes; with `replicas`, a refusal may rest on
    a value that was over a moment ago. What depends on time (TTLs, and limiters that put a time
    into their keys) trusts the machines' clocks: keep them together (NTP), for they shift it by
    their difference. A write whose answer is lost is not counted twice, unless the server restarts
    and others write the same key before the connection is back.

    A window's keys, `limiter@1700000000` and so on, are counted in one record a limiter, which is
    read and written as a whole: an hour's window costs two requests, and other limiters none. So
    what `incr_and_sum` counted under such keys is no value for `add`, `incr` and `decr`. A record
    holds about 30,000 keys that were used (the server's max_payload); MessageTooLarge beyond.
    """

    def __init__(
        self,
        *,
        url: str = DEFAULT_URL,
        servers: Sequence[str] | None = None,
        namespace: str = "dramatiq-rate-limits",
        connection: NatsConnection | None = None,
        storage: Storage = "file",
        replicas: int = 1,
        **login: Unpack[ConnectArguments],
    ) -> None:
        self._own_connection = connection is None
        self._connection = connection or NatsConnection(servers or url, **login)
        self._bucket = Bucket(
            self._connection, encode(namespace), storage=storage, replicas=replicas
        )
        self._changes = Changes(self._bucket)

    def add(self, key: str, value: int, ttl: int) -> bool:
        """Whether the key was new; then it holds `value` now."""
        return self._change(key, lambda current: value if current is None else None, ttl)

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        """Whether the sum stays within `maximum`; then it is stored."""
        return self._change(key, lambda current: _within((current or 0) + amount, maximum), ttl)

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        """Whether the difference stays at `minimum` or above; then it is stored."""

        def less(current: int | None) -> int | None:
            value = (current or 0) - amount
            return value if value >= minimum else None

        return self._change(key, less, ttl)

    def incr_and_sum(self, key: str, keys: _Keys, amount: int, maximum: int, ttl: int) -> bool:
        """Whether the sum over `keys()` and `amount` stays within `maximum`; then it is added.

        Atomic over all keys. Keys that are the same up to their last `@` cost two requests however
        many they are; others one each, and compete with every other limiter.
        """
        limiter, at, _ = key.rpartition("@")
        try:
            if at:
                return self._add_to_group(limiter, key, keys, amount, maximum, ttl)
        except _Scattered:
            pass
        return self._add_to_one(key, keys, amount, maximum, ttl)

    def wait(self, key: str, timeout: int | None) -> bool:
        """Whether somebody notified the key, at most `timeout` ms from now or its ttl ago."""
        entry = wait(self._bucket, _notice(key), None if timeout is None else timeout / 1000)
        return entry.value is not None

    def wait_notify(self, key: str, ttl: int) -> None:
        """Wake everybody who waits for the key, and who comes within `ttl` ms."""
        self._bucket.put(_notice(key), b"1", ttl=ttl / 1000)

    def close(self) -> None:
        """Close the connection, unless it was given from outside. Idempotent."""
        self._bucket.close()
        if self._own_connection:
            self._connection.close()

    def _change(self, key: str, change: Callable[[int | None], int | None], ttl: int) -> bool:
        def decide(value: bytes | None) -> Write | None:
            changed = change(_number(value))
            return None if changed is None else _write(changed, ttl)

        return self._changes.change(key, decide)

    def _add_to_group(
        self, limiter: str, key: str, keys: _Keys, amount: int, maximum: int, ttl: int
    ) -> bool:
        prefix, name = f"{limiter}@", key[len(limiter) + 1 :]

        def add(record: bytes | None) -> Write | None:
            now = time.time_ns() // 1_000_000
            counts = _counts(record, now)
            value = _sum(counts, [name]) + amount
            if max(value, _sum(counts, _names(keys(), prefix)) + amount) > maximum:
                return None
            counts[name] = (value, now + ttl)
            last = max(end for _, end in counts.values())
            return Write(json.dumps(counts, separators=(",", ":")).encode(), (last - now) / 1000)

        return self._changes.change((limiter, "window"), add)

    def _add_to_one(self, key: str, keys: _Keys, amount: int, maximum: int, ttl: int) -> bool:
        def add(own: bytes | None, summed: list[bytes | None]) -> Write | None:
            value = (_number(own) or 0) + amount
            total = amount + sum(_number(other) or 0 for other in summed)
            return _write(value, ttl) if max(value, total) <= maximum else None

        return self._changes.change_one(key, keys, add)


class _Scattered(Exception):
    """The keys do not belong to one group."""


def _counts(record: bytes | None, now: int) -> _Counts:
    """Those of the record that are not over."""
    if record is None:
        return {}
    return {name: count for name, count in json.loads(record).items() if count[1] > now}


def _names(keys: Iterable[str], prefix: str) -> list[str]:
    """What follows the prefix. Raises _Scattered when a key is not of this group."""
    keys, start = list(keys), len(prefix)
    names = [key[start:] for key in keys if key.startswith(prefix)]
    if len(names) < len(keys) or "@" in "".join(names):
        raise _Scattered
    return names


def _sum(counts: _Counts, names: Iterable[str]) -> int:
    return sum(counts[name][0] for name in names if name in counts)


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _write(value: int, ttl: int) -> Write:
    return Write(str(value).encode(), ttl / 1000)


def _within(value: int, maximum: int) -> int | None:
    return value if value <= maximum else None


def _notice(key: str) -> Key:
    return (key, "notice")
