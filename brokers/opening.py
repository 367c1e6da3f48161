"""The broker that all of Hades' queues are on."""

from __future__ import annotations

from brokers import subjects
from brokers.nats import NatsBroker
from brokers.nats.connection import NatsConnection
from brokers.settings import NatsSettings
from executors.job import Priority


def open_broker(
    settings: NatsSettings, connection: NatsConnection, **options: object
) -> NatsBroker:
    """The queue's broker; its lanes are the three priorities, 0 the lowest."""
    options.setdefault("namespace", subjects.QUEUE_NAMESPACE)
    return NatsBroker(
        connection=connection,
        ack_wait=settings.ack_wait,
        max_priority=len(Priority) - 1,
        **options,  # type: ignore[arg-type]
    )
