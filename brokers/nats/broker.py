"""A Dramatiq broker on one JetStream WorkQueue stream."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import time
from collections.abc import Sequence
from typing import Any

import nats.errors
import nats.js.errors
from dramatiq import Message
from dramatiq.broker import Broker
from dramatiq.common import current_millis, q_name
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import Middleware
from nats.aio.msg import Msg

from .connection import REQUEST_SECONDS, NatsConnection
from .consumer import NatsConsumer
from .streams import Names, ensure_stream, lane_consumer, queue_stream

ENQUEUE_PATIENCE = 10.0
"""Seconds that `enqueue` waits for NATS to come back before it gives up."""
SCHEDULE_MIN_MS = 1_000
"""A shorter delay travels as `eta` on the lane: the server's schedules are no finer than 250 ms."""
JOIN_POLL_SECONDS = 0.05

_REASON_HEADER = "Dramatiq-Reason"
_REASON_CHARS = 500


class NatsBroker(Broker):
    """Messages are confirmed by the server before `enqueue` returns, and delivered at least once.

    A message that a worker holds is kept alive by a heartbeat from a thread of the broker's own, so
    an actor may run for any time; when the process dies, another worker gets its messages within
    `ack_wait` seconds. The connection is opened by its first use and reconnects for ever.

    `namespace` separates installations on one account. `max_priority` (0 to 9) opens a lane for
    each `broker_priority` up to it, a higher number first, weighted 2:1 from lane to lane.
    `max_deliver` sends a message that was delivered more often without being acknowledged to the
    dead letters, which are kept for `dead_message_ttl` seconds. `duplicate_window` is in seconds.
    A `connection` may be shared; the broker then leaves it open.
    """

    def __init__(
        self,
        *,
        url: str = "nats://localhost:4222",
        servers: Sequence[str] | None = None,
        namespace: str = "dramatiq",
        middleware: list[Middleware] | None = None,
        ack_wait: float = 30.0,
        max_deliver: int | None = None,
        max_priority: int | None = None,
        duplicate_window: float = 60.0,
        dead_message_ttl: float = 7 * 86_400.0,
        replicas: int = 1,
        user: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        connection: NatsConnection | None = None,
    ) -> None:
        super().__init__(middleware=middleware)
        self.queues: set[str] = set()
        self.actor_options.add("broker_priority")
        self.names = Names(namespace)
        self.ack_wait = ack_wait
        self.max_deliver = max_deliver
        self.max_priority = max_priority
        self.dead_message_ttl = dead_message_ttl
        self._stream = queue_stream(
            self.names, duplicate_window=duplicate_window, replicas=replicas
        )
        self._own_connection = connection is None
        self.connection = connection or NatsConnection(
            servers or url, user=user, password=password, tls=tls
        )
        self.held: set[str] = set()
        self.consumers: set[NatsConsumer] = set()
        self.closed = False
        self._heartbeat: Any = None
        self._declared: set[str] = set()
        self._ids = itertools.count()
        self._id_prefix = secrets.token_hex(8)
        self.add_middleware(_StopPulling())

    # Queues

    def get_declared_queues(self) -> set[str]:
        """Names of the queues declared so far."""
        return self.queues.copy()

    def declare_queue(self, queue_name: str) -> None:
        """Idempotent; reaches the server with the first message or consumer."""
        queue_name = q_name(queue_name)
        if queue_name in self.queues:
            return
        self.emit_before("declare_queue", queue_name)
        self.queues.add(queue_name)
        self.emit_after("declare_queue", queue_name)

    def lanes(self) -> list[int]:
        """Priorities that have a lane, the highest first."""
        return list(range(self.max_priority or 0, -1, -1))

    def lane_consumers(self, queue_name: str) -> list[str]:
        """Durable consumers of the queue, in the order of `lanes`."""
        return [self.names.consumer(queue_name, lane) for lane in self.lanes()]

    async def declare_on_server(self, queue_name: str | None = None) -> None:
        """Create or update the stream and the queue's consumers; on the event loop."""
        jetstream = self.connection.jetstream
        await ensure_stream(jetstream, self._stream)
        for lane in self.lanes() if queue_name is not None else ():
            config = lane_consumer(self.names, str(queue_name), lane, ack_wait=self.ack_wait)
            await jetstream.add_consumer(self.names.stream, config)

    # Sending

    def enqueue(self, message: Message[Any], *, delay: float | None = None) -> Message[Any]:
        """`delay` is in milliseconds.

        Raises ConnectionClosed, ConnectionFailed, MessageTooLarge.
        """
        self.declare_queue(message.queue_name)
        if delay is not None and 0 < delay < SCHEDULE_MIN_MS:
            message = message.copy(options={"eta": current_millis() + int(delay)})
        else:
            message = message.copy()
        self.emit_before("enqueue", message, delay)
        self._send(message, delay)
        self.emit_after("enqueue", message, delay)
        return message

    def _send(self, message: Message[Any], delay: float | None) -> None:
        queue_name = q_name(message.queue_name)
        uid = f"{self._id_prefix}-{next(self._ids)}"
        target = self.names.lane(queue_name, self._lane_of(message))
        subject, headers = target, {}
        if delay is not None and delay >= SCHEDULE_MIN_MS:
            subject = self.names.scheduled(queue_name, uid)
            headers = {
                "Nats-Schedule": f"@at {_rfc3339(time.time() + delay / 1000)}",
                "Nats-Schedule-Target": target,
            }
        self._publish(subject, message.encode(), headers, uid)

    def _publish(self, subject: str, data: bytes, headers: dict[str, str], uid: str) -> int:
        self._declare_once()
        return self.connection.publish(
            subject,
            data,
            headers=headers,
            message_id=uid,
            patience=ENQUEUE_PATIENCE,
            declare=self.declare_on_server,
        )

    def _declare_once(self) -> None:
        if "stream" not in self._declared:
            self.connection.patiently(self.declare_on_server, ENQUEUE_PATIENCE)
            self._declared.add("stream")

    def _lane_of(self, message: Message[Any]) -> int:
        priority = message.options.get("broker_priority")
        if priority is None and message.actor_name in self.actors:
            priority = self.actors[message.actor_name].options.get("broker_priority")
        return max(0, min(int(priority or 0), self.max_priority or 0))

    # Receiving

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> NatsConsumer:
        """`timeout` is in milliseconds. Raises ConnectionFailed, ConnectionClosed."""
        queue_name = q_name(queue_name)
        self.declare_queue(queue_name)
        self.connection.patiently(lambda: self.declare_on_server(queue_name), ENQUEUE_PATIENCE)
        if self._heartbeat is None:
            self.connection.on_reconnect(self._beat_at_once)
            self._heartbeat = self.connection.spawn(self._keep_beating())
        consumer = NatsConsumer(self, queue_name, prefetch, timeout)
        self.consumers.add(consumer)
        return consumer

    def _beat_at_once(self) -> None:
        self._beating = asyncio.ensure_future(self._beat())

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self.ack_wait / 3)
            await self._beat()

    async def _beat(self) -> None:
        """Tell the server that every held message is still being worked on."""
        for ack_subject in list(self.held):
            if self.connection.client.is_connected:
                await self.connection.client.publish(ack_subject, b"+WPI")

    def settle(self, ack_subject: str, verdict: bytes | None) -> None:
        """Send an acknowledgement and wait until the server has it; None: only let go of it.

        Raises ConnectionClosed; then the heartbeat goes on.
        """

        async def request() -> None:
            if verdict is not None:
                await self.connection.client.request(ack_subject, verdict, timeout=REQUEST_SECONDS)

        self.connection.patiently(request, REQUEST_SECONDS)
        self.held.discard(ack_subject)

    def bury(self, queue_name: str, raw: Msg, reason: str) -> None:
        """Put a copy of a delivered message among the dead letters, with the reason it is there."""
        headers = {
            _REASON_HEADER: " ".join(reason.split())[:_REASON_CHARS],
            "Nats-TTL": f"{int(self.dead_message_ttl)}s",
        }
        uid = f"dead-{raw.metadata.sequence.stream}-{self.names.stream}"
        self._publish(self.names.dead(queue_name), raw.data, headers, uid)

    def stop_pulling(self) -> None:
        """Take no further message in this process; what waits here goes back to the queue."""
        for consumer in list(self.consumers):
            consumer.stop_pulling()

    # Looking and clearing

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """(ready and in flight, delayed, dead) of the queue."""
        return self.connection.patiently(lambda: self._counts(queue_name), REQUEST_SECONDS)

    async def _counts(self, queue_name: str) -> tuple[int, int, int]:
        await self.declare_on_server()
        subjects = (
            self.names.lanes(queue_name),
            self.names.scheduled(queue_name, "*"),
            self.names.dead(queue_name),
        )
        ready, delayed, dead = [await self._count(subject) for subject in subjects]
        return ready, delayed, dead

    async def _count(self, subject: str) -> int:
        info = await self.connection.jetstream.stream_info(self.names.stream, subject)
        return sum((info.state.subjects or {}).values())

    def get_dead_letters(self, queue_name: str) -> list[tuple[Message[Any], str]]:
        """Messages that were given up, oldest first, each with its reason."""
        return self.connection.run(self._dead_letters(queue_name))

    async def _dead_letters(self, queue_name: str) -> list[tuple[Message[Any], str]]:
        letters: list[tuple[Message[Any], str]] = []
        sequence = 1
        while True:
            try:
                raw = await self.connection.jetstream.get_msg(
                    self.names.stream, sequence, subject=self.names.dead(queue_name), next=True
                )
            except nats.js.errors.NotFoundError:
                return letters
            reason = (raw.headers or {}).get(_REASON_HEADER, "")
            letters.append((Message.decode(raw.data or b""), reason))
            sequence = int(raw.seq or 0) + 1

    def flush(self, queue_name: str) -> None:
        """Drop every message of the queue: ready, delayed and dead."""
        self.connection.run(
            self._purge(
                self.names.lanes(queue_name),
                self.names.scheduled(queue_name, "*"),
                self.names.dead(queue_name),
            )
        )

    def flush_all(self) -> None:
        """Flush every declared queue."""
        for queue_name in self.queues:
            self.flush(queue_name)

    async def _purge(self, *subjects: str) -> None:
        await self.declare_on_server()
        for subject in subjects:
            await self.connection.jetstream.purge_stream(self.names.stream, subject=subject)

    def join(self, queue_name: str, *, timeout: float | None = None) -> None:
        """Wait until nothing is ready, delayed or in flight, here or elsewhere.

        `timeout` is in milliseconds. Raises QueueJoinTimeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while any(self.get_queue_message_counts(queue_name)[:2]):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(JOIN_POLL_SECONDS)

    def close(self) -> None:
        """Stop pulling and close the connection, unless it was given from outside. Idempotent."""
        if self.closed:
            return
        for consumer in list(self.consumers):
            consumer.close()
        self.closed = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._own_connection:
            self.connection.close()


class _StopPulling(Middleware):
    """A worker that shuts down waits for its running actors, and takes nothing new meanwhile."""

    def before_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        assert isinstance(broker, NatsBroker)
        broker.stop_pulling()


def _rfc3339(timestamp: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(timestamp))
    return f"{whole}.{int(timestamp % 1 * 1000):03d}Z"
