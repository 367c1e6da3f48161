"""The brokers under measurement, each by a short name, and what differs between them.

Imports a client library only when a broker of its kind is opened: a worker's memory is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dramatiq import Actor, Broker

QUEUE = "default"
BATCH = 100
"""Messages of one `enqueue_many`."""
WINDOW = 256
"""Publishes of the raw pipelined publisher that may be outstanding."""

REDIS, RABBITMQ, NATS = "redis", "rabbitmq", "nats"
SERVERS = (REDIS, RABBITMQ, NATS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the tables. `server` None: it needs none."""

    name: str
    label: str
    server: str | None
    raw: bool = False
    """Without Dramatiq: a program of `broker_floors`."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="redis", label="RedisBroker", server=REDIS),
        Variant(name="rabbitmq", label="RabbitmqBroker", server=RABBITMQ),
        Variant(name="rabbitmq-confirm", label="RabbitmqBroker, confirmed", server=RABBITMQ),
        Variant(name="nats", label="**NatsBroker**", server=NATS),
        Variant(name="nats-sync", label="**NatsBroker, sync**", server=NATS),
        Variant(name="nats-window", label="**NatsBroker, window**", server=NATS),
        Variant(name="nats-many", label=f"**NatsBroker, enqueue_many({BATCH})**", server=NATS),
        Variant(name="raw-sync", label="*nats-py, awaited*", server=NATS, raw=True),
        Variant(name="raw-window", label=f"*nats-py, {WINDOW} pending*", server=NATS, raw=True),
        Variant(name="raw-pull", label="*nats-py, fetch(64)*", server=NATS, raw=True),
        Variant(name="stub", label="*StubBroker*", server=None),
    )
}


def open_broker(name: str, url: str) -> Broker:
    """With Dramatiq's default middleware and every other setting at its default."""
    match name:
        case "redis":
            from dramatiq.brokers.redis import RedisBroker

            return RedisBroker(url=url)
        case "rabbitmq" | "rabbitmq-confirm":
            from dramatiq.brokers.rabbitmq import RabbitmqBroker

            return RabbitmqBroker(url=url, confirm_delivery=name == "rabbitmq-confirm")
        case "stub":
            from dramatiq.brokers.stub import StubBroker

            return StubBroker()
    from brokers.nats import NatsBroker

    return NatsBroker(url=url, confirm="window" if name == "nats-window" else "sync")


def depth(broker: Any, server: str | None) -> int:
    """Messages that are ready in the queue, as the server counts them."""
    match server:
        case "redis":
            return int(broker.do_qsize(QUEUE))
        case None:
            return int(broker.queues[QUEUE].qsize())
    return int(broker.get_queue_message_counts(QUEUE)[0])


def sender(name: str, broker: Any, actor: Actor[[], None]) -> Callable[[], int]:
    """A function that enqueues once and returns how many messages that were."""
    if name == "nats-many":

        def send_batch() -> int:
            broker.enqueue_many([actor.message() for _ in range(BATCH)])
            return BATCH

        return send_batch

    def send() -> int:
        actor.send()
        return 1

    return send


def settler(name: str, broker: Any) -> Callable[[], object]:
    """A function that returns when everything enqueued so far is confirmed."""
    return broker.wait_for_confirms if name == "nats-window" else lambda: None
