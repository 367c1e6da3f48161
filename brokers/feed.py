"""Stored messages as they come, from the streams to a thread that takes them one by one.

Each source is read through a consumer of its own, which the server forgets soon after the reader is
gone. After a reconnect the consumers are made anew, behind the last message that was passed on; so
nothing is skipped and nothing comes twice. A slow reader holds back the pulls: what waits here is
bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api

from brokers.nats.connection import REQUEST_SECONDS, NatsConnection

PULL_BATCH = 32
"""Messages that one pull may bring; as many again may wait for the thread."""
PULL_SECONDS = 30.0
"""How long the server keeps a pull that it cannot answer."""
RETRY_SECONDS = 0.2
"""Pause after a pull that failed, before the consumer is made anew."""

_PULL_AGAIN = ("404", "408")

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Source:
    """One subject of one stream."""

    stream: str
    subject: str
    after: int | None = None
    """Sequence of the last message passed on; None: begin with the last one that there is."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Feed:
    """The messages of some sources: of each in order, none twice.

    with Feed(connection, sources) as feed:
        feed.next(seconds)
    """

    def __init__(self, connection: NatsConnection, sources: Sequence[Source]) -> None:
        self._connection = connection
        self._sources = sources
        self._arrived: asyncio.Queue[tuple[Source, Msg]] = asyncio.Queue(PULL_BATCH)
        self._tasks: list[Future[None]] = []
        self._round = 0
        self._forget_reconnects: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        self._forget_reconnects = self._connection.on_reconnect(self._start)
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget_reconnects()
        self._stop()

    def _start(self) -> None:
        self._stop()
        self._tasks = [
            self._connection.spawn(self._read(source, self._round)) for source in self._sources
        ]

    def _stop(self) -> None:
        self._round += 1  # asyncio may swallow a cancellation
        for task in self._tasks:
            task.cancel()

    def next(self, timeout: float) -> list[tuple[Source, Msg]]:
        """What has come; empty after `timeout` seconds of silence."""
        return self._connection.run(self._next(timeout))

    async def _next(self, seconds: float) -> list[tuple[Source, Msg]]:
        try:
            items = [await asyncio.wait_for(self._arrived.get(), seconds)]
        except TimeoutError:
            return []
        while not self._arrived.empty():
            items.append(self._arrived.get_nowait())
        return items

    async def _read(self, source: Source, number: int) -> None:
        while number == self._round:
            try:
                await self._pull_until_lost(source, number)
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.debug("reading %s anew after %r", source.stream, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _pull_until_lost(self, source: Source, number: int) -> None:
        jetstream, client = self._connection.jetstream, self._connection.client
        info = await jetstream.add_consumer(source.stream, _config(source))
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        consumer = f"{source.stream}.{info.name}"
        try:
            status = "408"
            while status in _PULL_AGAIN and number == self._round:
                request = json.dumps({"batch": PULL_BATCH, "expires": int(PULL_SECONDS * 1e9)})
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{consumer}"
                await client.publish(subject, request.encode(), reply=inbox)
                status = await self._take(source, subscription)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
                await client.publish(f"$JS.API.CONSUMER.DELETE.{consumer}")

    async def _take(self, source: Source, subscription: Subscription) -> str:
        """Pass on what a pull brings; returns how the server ended it."""
        for _ in range(PULL_BATCH):
            message = await subscription.next_msg(timeout=PULL_SECONDS + REQUEST_SECONDS)
            status: Any = (message.headers or {}).get("Status")
            if status is not None:
                return str(status)
            await self._pass_on(source, message)
        return "408"

    async def _pass_on(self, source: Source, message: Msg) -> None:
        sequence = message.metadata.sequence.stream
        async with source.lock:
            if source.after is None or sequence > source.after:
                await self._arrived.put((source, message))
                source.after = sequence


def _nothing() -> None:
    """Before the feed is opened."""


def _config(source: Source) -> api.ConsumerConfig:
    config = api.ConsumerConfig(
        filter_subject=source.subject,
        ack_policy=api.AckPolicy.NONE,
        inactive_threshold=2 * PULL_SECONDS,
        mem_storage=True,
        num_replicas=1,
        deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT,
    )
    if source.after is not None:
        config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = source.after + 1
    return config
