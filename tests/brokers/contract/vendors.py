"""The four brokers that keep, or do not keep, the same promises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import pika
import redis
from dramatiq import Message, Middleware
from dramatiq.broker import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import xq_name
from dramatiq.errors import DecodeError
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.rate_limits.backends.redis import RedisBackend as RedisLimits
from dramatiq.rate_limits.backends.stub import StubBackend as StubLimits
from dramatiq.results import ResultBackend
from dramatiq.results.backends.redis import RedisBackend as RedisResults
from dramatiq.results.backends.stub import StubBackend as StubResults

from brokers.nats import NatsBroker, NatsRateLimiterBackend, NatsResultBackend

NOBODY = "127.0.0.1:1"
"""Where no server listens."""


def decoded(body: bytes) -> Message[Any] | None:
    """None for what is no message."""
    try:
        return Message.decode(body)
    except DecodeError:
        return None


class Vendor(Protocol):
    """How to open one kind of broker, and what Dramatiq has no name for.

    Brokers of one vendor share their server and its messages; tests keep apart by their queues.
    """

    name: ClassVar[str]

    def open(self, middleware: Iterable[Middleware]) -> Broker:
        """A broker with this middleware and no other."""

    def open_without_server(self) -> Broker:
        """One whose server nobody has started."""

    def release(self, what: Broker | ResultBackend | RateLimiterBackend) -> None:
        """Close it, and the sockets that its own `close` leaves open."""

    def join(self, broker: Broker, queue: str) -> None:
        """`join` at its quickest."""

    def dead_letters(self, broker: Broker, queue: str) -> list[Message[Any] | None]:
        """The queue's, oldest first, None for one that no decoder understands. They stay there."""

    def results(self) -> ResultBackend:
        """The result backend that goes with this broker."""

    def limits(self) -> RateLimiterBackend:
        """The rate-limiter backend that goes with this broker."""


class Stub:
    """Dramatiq's broker for unit tests, in the memory of one process."""

    name: ClassVar[str] = "stub"

    def open(self, middleware: Iterable[Middleware]) -> StubBroker:
        return StubBroker(middleware=list(middleware), fail_fast_default=False)

    def open_without_server(self) -> StubBroker:
        return self.open(())

    def release(self, what: Broker | ResultBackend | RateLimiterBackend) -> None:
        if isinstance(what, Broker):
            what.close()

    def join(self, broker: Broker, queue: str) -> None:
        broker.join(queue, timeout=10_000)

    def dead_letters(self, broker: Broker, queue: str) -> list[Message[Any] | None]:
        assert isinstance(broker, StubBroker)
        return [proxy._message for proxy in broker.dead_letters_by_queue[queue]]

    def results(self) -> ResultBackend:
        return StubResults()

    def limits(self) -> RateLimiterBackend:
        return StubLimits()


class Redis:
    """Dramatiq's RedisBroker."""

    name: ClassVar[str] = "redis"

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, middleware: Iterable[Middleware]) -> RedisBroker:
        return RedisBroker(url=self.url, middleware=list(middleware))

    def open_without_server(self) -> RedisBroker:
        return RedisBroker(url=f"redis://{NOBODY}/0", middleware=[])

    def release(self, what: Broker | ResultBackend | RateLimiterBackend) -> None:
        assert isinstance(what, RedisBroker | RedisResults | RedisLimits)
        what.client.close()
        what.client.connection_pool.disconnect()

    def join(self, broker: Broker, queue: str) -> None:
        assert isinstance(broker, RedisBroker)
        broker.join(queue, interval=20, timeout=10_000)

    def dead_letters(self, broker: Broker, queue: str) -> list[Message[Any] | None]:
        assert isinstance(broker, RedisBroker)
        key = f"{broker.namespace}:{xq_name(queue)}"
        ids = broker.client.zrange(key, 0, -1)
        return [decoded(broker.client.hget(f"{key}.msgs", each)) for each in ids]

    def results(self) -> ResultBackend:
        return RedisResults(client=redis.Redis.from_url(self.url))

    def limits(self) -> RateLimiterBackend:
        return RedisLimits(client=redis.Redis.from_url(self.url))


class Rabbitmq:
    """Dramatiq's RabbitmqBroker, in its safest form: it waits until its messages are confirmed."""

    name: ClassVar[str] = "rabbitmq"

    def __init__(self, url: str, redis_url: str) -> None:
        """Results and rate limits are Redis's: Dramatiq has none on RabbitMQ."""
        self.url = url
        self._redis = Redis(redis_url)

    def open(self, middleware: Iterable[Middleware]) -> RabbitmqBroker:
        return RabbitmqBroker(url=self.url, confirm_delivery=True, middleware=list(middleware))

    def open_without_server(self) -> RabbitmqBroker:
        return RabbitmqBroker(url=f"amqp://{NOBODY}/%2F", middleware=[])

    def release(self, what: Broker | ResultBackend | RateLimiterBackend) -> None:
        if isinstance(what, Broker):
            what.close()
        else:
            self._redis.release(what)

    def join(self, broker: Broker, queue: str) -> None:
        assert isinstance(broker, RabbitmqBroker)
        broker.join(queue, min_successes=3, idle_time=20, timeout=10_000)

    def dead_letters(self, broker: Broker, queue: str) -> list[Message[Any] | None]:
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel, letters = connection.channel(), []
            while (body := channel.basic_get(xq_name(queue))[2]) is not None:
                letters.append(decoded(body))
            channel.close()  # what it has not acknowledged goes back
        return letters

    def results(self) -> ResultBackend:
        return self._redis.results()

    def limits(self) -> RateLimiterBackend:
        return self._redis.limits()


class Nats:
    """Ours."""

    name: ClassVar[str] = "nats"

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, middleware: Iterable[Middleware]) -> NatsBroker:
        return NatsBroker(url=self.url, namespace="contract", middleware=list(middleware))

    def open_without_server(self) -> NatsBroker:
        return NatsBroker(url=f"nats://{NOBODY}", middleware=[], connect_timeout=0.5)

    def release(self, what: Broker | ResultBackend | RateLimiterBackend) -> None:
        assert isinstance(what, NatsBroker | NatsResultBackend | NatsRateLimiterBackend)
        what.close()

    def join(self, broker: Broker, queue: str) -> None:
        broker.join(queue, timeout=10_000)

    def dead_letters(self, broker: Broker, queue: str) -> list[Message[Any] | None]:
        assert isinstance(broker, NatsBroker)
        return [letter.message for letter in broker.get_dead_letters(queue)]

    def results(self) -> ResultBackend:
        return NatsResultBackend(url=self.url, namespace="contract-results")

    def limits(self) -> RateLimiterBackend:
        return NatsRateLimiterBackend(url=self.url, namespace="contract-limits")
