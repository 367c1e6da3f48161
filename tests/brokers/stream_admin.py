"""What an administrator sees and does, whichever names the broker has given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

T = TypeVar("T")


def _administrate(url: str, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    async def connected() -> T:
        client = await nats.connect(url, connect_timeout=5)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(connected())


async def _streams(jetstream: JetStreamContext) -> list[str]:
    return [str(info.config.name) for info in await jetstream.streams_info()]


def streams(url: str) -> list[str]:
    """Names of all streams on the server."""
    return _administrate(url, _streams)


async def _consumers(jetstream: JetStreamContext) -> list[ConsumerInfo]:
    return [
        info
        for stream in await _streams(jetstream)
        for info in await jetstream.consumers_info(stream)
    ]


def in_flight(url: str) -> int:
    """Messages that were delivered and not acknowledged, of all consumers."""
    return sum(info.num_ack_pending or 0 for info in _administrate(url, _consumers))


def standing_pulls(url: str) -> int:
    """Pulls that wait for a message, of all consumers."""
    return sum(info.num_waiting or 0 for info in _administrate(url, _consumers))


def delete_consumers(url: str) -> int:
    """Returns how many there were."""

    async def delete(jetstream: JetStreamContext) -> int:
        consumers = await _consumers(jetstream)
        for info in consumers:
            await jetstream.delete_consumer(info.stream_name, info.name)
        return len(consumers)

    return _administrate(url, delete)


def delete_streams(url: str) -> int:
    """Returns how many there were."""

    async def delete(jetstream: JetStreamContext) -> int:
        names = await _streams(jetstream)
        for name in names:
            await jetstream.delete_stream(name)
        return len(names)

    return _administrate(url, delete)
