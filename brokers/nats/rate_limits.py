"""Rate limiters in a key-value bucket: every change is a compare-and-set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from dramatiq.rate_limits import RateLimiterBackend
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .buckets import Bucket
from .connection import REQUEST_SECONDS, NatsConnection
from .errors import RevisionConflict
from .streams import encode


class NatsRateLimiterBackend(RateLimiterBackend):
    """`RateLimiterBackend` on NATS. TTLs and timeouts are in milliseconds, as Dramatiq's are."""

    def __init__(
        self,
        *,
        url: str = "nats://localhost:4222",
        namespace: str = "dramatiq-rate-limits",
        connection: NatsConnection | None = None,
    ) -> None:
        self._own_connection = connection is None
        self._connection = connection or NatsConnection(url)
        self._bucket = Bucket(self._connection, encode(namespace))

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

    def incr_and_sum(
        self, key: str, keys: Callable[[], Iterable[str]], amount: int, maximum: int, ttl: int
    ) -> bool:
        """Whether the sum over `keys()` and `amount` stays within `maximum`; then it is added.

        Atomic over all keys: the write names the bucket's last revision from before they were read.
        """
        while True:
            revision = self._bucket.last_revision()
            value = _within((self._value(key) or 0) + amount, maximum)
            total = amount + sum(self._value(other) or 0 for other in keys())
            if value is None or total > maximum:
                return False
            try:
                self._bucket.put(key, str(value).encode(), ttl=ttl / 1000, expected_bucket=revision)
            except RevisionConflict:
                continue
            return True

    def wait(self, key: str, timeout: int | None) -> bool:
        """Whether somebody notified the key, at most `timeout` ms from now or its ttl ago."""
        key, notified = _notice(key), threading.Event()
        self._bucket.declare()
        subscription = self._connection.run(self._subscribe(key, notified), REQUEST_SECONDS)
        try:
            if self._bucket.get(key).value is not None:
                return True
            return notified.wait(None if timeout is None else timeout / 1000)
        finally:
            self._connection.run(subscription.unsubscribe(), REQUEST_SECONDS)

    def wait_notify(self, key: str, ttl: int) -> None:
        """Wake everybody who waits for the key, and who comes within `ttl` ms."""
        self._bucket.put(_notice(key), b"1", ttl=ttl / 1000)

    def close(self) -> None:
        """Close the connection, unless it was given from outside. Idempotent."""
        if self._own_connection:
            self._connection.close()

    async def _subscribe(self, key: str, notified: threading.Event) -> Subscription:
        async def on_change(message: Msg) -> None:
            notified.set()

        client = self._connection.client
        subscription = await client.subscribe(self._bucket.subject(key), cb=on_change)
        await client.flush()
        return subscription

    def _value(self, key: str) -> int | None:
        return _number(self._bucket.get(key).value)

    def _change(self, key: str, change: Callable[[int | None], int | None], ttl: int) -> bool:
        while True:
            entry = self._bucket.get(key)
            value = change(_number(entry.value))
            if value is None:
                return False
            try:
                self._bucket.put(key, str(value).encode(), ttl=ttl / 1000, expected=entry.revision)
            except RevisionConflict:
                continue
            return True


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _within(value: int, maximum: int) -> int | None:
    return value if value <= maximum else None


def _notice(key: str) -> str:
    return f"{key}@notified"
