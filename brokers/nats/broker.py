"""A Dramatiq broker on one JetStream WorkQueue stream."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, Unpack

from dramatiq import Message
from dramatiq.broker import Broker
from dramatiq.common import dq_name, q_name
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import Middleware

from .connection import NatsConnection
from .consumer import NatsConsumer
from .dead_letters import DeadLetters
from .envelopes import Envelopes
from .errors import ConnectionClosed
from .forks import Ids
from .held import NAK, Held
from .lengths import LengthLimit
from .lifecycle import Lifecycle
from .messages import delivery_of
from .protocol import Arrival
from .publisher import Publication, Publisher
from .queues import PATIENCE, DeadLetter, LaneStats, Queues, QueueStats
from .runs import Runs
from .server_clock import ServerClock
from .servers import DEFAULT_URL, ConnectArguments
from .streams import Names, StreamOptions
from .window import Window

ENQUEUE_PATIENCE = 10.0
"""Seconds that `enqueue` waits for NATS to come back before it gives up."""
JOIN_POLL_SECONDS = 0.05
MIN_ACK_WAIT = 0.3
MAX_PRIORITY = 9

_CLOSE_SECONDS = 5.0


class NatsBroker(Broker):
    """Messages are confirmed by the server before `enqueue` returns, and delivered at least once.

    A message that a worker holds is kept alive by a heartbeat from a thread of the broker's own, so
    an actor may run for any time; when the process dies, another worker gets its messages within
    `ack_wait` seconds. Connections are opened by their first use and reconnect for ever.

    `url` names one server or several, separated by commas; `servers` is a list of them. `login` is
    described at `ConnectArguments`. A `connection` may be shared; the broker then leaves it open.
    `namespace` separates installations on one account.

    `max_priority` (0 to 9) opens a lane for each `broker_priority` up to it, a higher number first,
    weighted 2:1 from lane to lane, so that none starves. `max_deliver` sends a message that was
    begun so often without being acknowledged to the dead letters, which are kept for
    `dead_message_ttl` seconds. `max_queue_length` bounds each queue: `enqueue` raises QueueFull.

    With `confirm="window"` `enqueue` returns before the confirmation: at most `window` messages are
    unconfirmed, they are sent again until they are confirmed, and `close` and `wait_for_confirms`
    wait for that. A process that dies loses what was unconfirmed.

    `storage`, `replicas`, `max_age`, `max_bytes` and `duplicate_window` are described at
    `StreamOptions`. All processes of a namespace need the same ones, and the same `ack_wait` and
    `max_priority`. With `declare=False` streams and consumers must be there.
    """

    def __init__(
        self,
        *,
        url: str = DEFAULT_URL,
        servers: Sequence[str] | None = None,
        namespace: str = "dramatiq",
        middleware: list[Middleware] | None = None,
        ack_wait: float = 30.0,
        max_deliver: int | None = None,
        max_priority: int | None = None,
        max_queue_length: int | None = None,
        confirm: Literal["sync", "window"] = "sync",
        window: int = 1024,
        storage: Literal["file", "memory"] = "file",
        replicas: int = 1,
        max_age: float = 0.0,
        max_bytes: int | None = None,
        duplicate_window: float = 60.0,
        dead_message_ttl: float = 7 * 86_400.0,
        declare: bool = True,
        connection: NatsConnection | None = None,
        **login: Unpack[ConnectArguments],
    ) -> None:
        _check(ack_wait, max_priority, confirm)
        super().__init__(middleware=middleware)
        self.queues: set[str] = set()
        self.actor_options.add("broker_priority")
        self.names = Names(namespace)
        self.ack_wait = ack_wait
        self.max_priority = max_priority or 0
        self._own_connection = connection is None
        self.connection = connection or NatsConnection(servers or url, **login)
        options = StreamOptions(
            storage=storage,
            replicas=replicas,
            duplicate_window=duplicate_window,
            max_age=max_age,
            max_bytes=max_bytes,
        )
        self._queues = Queues(
            self.connection,
            self.names,
            options,
            lanes=self.lanes(),
            ack_wait=ack_wait,
            declare=declare,
        )
        self._limit = LengthLimit(max_queue_length, self._length) if max_queue_length else None
        self._publisher = Publisher(self.connection.open_wire, self.declare_now)
        self._window = (
            Window(self.connection, self.declare_now, size=window) if confirm == "window" else None
        )
        self._ids = Ids()
        self._envelopes = Envelopes(
            self.names,
            self._ids,
            self.actors,
            max_priority=self.max_priority,
            schedules=lambda: self._queues.abilities().schedules,
            server_time=ServerClock(self.connection, self.names.stream),
        )
        self._declared: set[str] = set()
        self.held = Held(self.connection.open_wire, ack_wait)
        self.consumers: set[NatsConsumer] = set()
        self.closed = False
        self.paused = False
        self.runs = Runs(self.connection, namespace, options, max_deliver) if max_deliver else None
        self._dead_letters = DeadLetters(
            self._publisher,
            self._queues,
            self.names,
            ttl=dead_message_ttl,
            lane_of=self._envelopes.lane_of,
        )
        self._lifecycle = Lifecycle(self)
        self.add_middleware(self._lifecycle)

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """As Dramatiq's; the broker's own stays the last one."""
        super().add_middleware(middleware, before=before, after=after)
        self.middleware.sort(key=lambda each: isinstance(each, Lifecycle))

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
        return list(range(self.max_priority, -1, -1))

    def lane_of_subject(self, subject: str) -> int:
        """Index in `lanes` of the lane that a message came from."""
        priority = subject.rpartition(".")[2]
        return self.max_priority - int(priority) if priority.isdigit() else 0

    def pulled_consumers(self, queue_name: str) -> list[str]:
        """Durable consumers of a queue in the order of `lanes`, or the one of a delay queue."""
        name = q_name(queue_name)
        if name != queue_name:
            return [self.names.consumer(name, "waiting")]
        return [self.names.consumer(name, lane) for lane in self.lanes()]

    def declare_now(self, queue_name: str | None = None) -> None:
        """Create or update the stream and the queue's consumers on the server; None: of all queues.

        Raises ConnectionClosed, ConnectionFailed.
        """
        names = self.queues.copy() if queue_name is None else {q_name(queue_name)}
        self._queues.declare(names)
        self._declared |= names
        if not self._queues.abilities().schedules:
            self._declare_delay_queues()

    def _declare_delay_queues(self) -> None:
        """Workers then count the delays, in the way of Dramatiq's other brokers."""
        for name in self.queues.copy():
            delay_name = dq_name(name)
            if delay_name not in self.delay_queues:
                self.delay_queues.add(delay_name)
                self.emit_after("declare_delay_queue", delay_name)

    # Sending

    def enqueue(
        self, message: Message[Any], *, delay: float | None = None, idempotent: bool = False
    ) -> Message[Any]:
        """Store the message; returns it as a worker will see it. `delay` is in milliseconds.

        `idempotent`: a message whose id was enqueued idempotently within `duplicate_window` is not
        stored again. Raises QueueFull, MessageTooLarge, JetStreamError; and ConnectionClosed or
        ConnectionFailed: then it may be stored or not, and an idempotent repetition does no harm.
        """
        try:
            message, publication = self._prepare(message, delay, idempotent)
            if self._window is not None:
                self._window.publish(publication, ENQUEUE_PATIENCE)
            else:
                self._publisher.publish(publication, ENQUEUE_PATIENCE)
        except BaseException:
            self._lifecycle.could_not_enqueue()
            raise
        self.emit_after("enqueue", message, delay)
        return message

    def store(
        self, messages: Iterable[Message[Any]], after: Sequence[Publication] = ()
    ) -> list[int]:
        """`enqueue`, idempotent and confirmed; the messages' numbers in the stream, for `remove`.

        A message that is there already has the number that it had. `after` is sent before them, in
        the same go; nobody receives the messages before that is on its way to its own stream.
        """
        prepared = [self._prepare(message, None, True) for message in messages]
        publications = [*after, *(publication for _, publication in prepared)]
        sequences = self._publisher.publish_many(publications, ENQUEUE_PATIENCE)
        for message, _ in prepared:
            self.emit_after("enqueue", message, None)
        return sequences[len(after) :]

    def remove(self, sequence: int) -> bool:
        """Erase one message of any queue; whether it was there. Who holds it may go on."""
        return self._queues.remove(sequence)

    def contains(self, sequence: int) -> bool:
        """Whether the message with this number waits, or is held by a worker."""
        return self._queues.contains(sequence)

    def gone(self, sequences: Collection[int]) -> set[int]:
        """Those of these numbers whose messages neither wait nor are held. Two requests, or one
        each for some of them when very many messages have left the middle of the queues."""
        return self._queues.gone(sequences)

    def enqueue_many(
        self, messages: Iterable[Message[Any]], *, delay: float | None = None
    ) -> list[Message[Any]]:
        """`enqueue` for many: all are confirmed when it returns, in far less time.

        After an error some may be stored. Middleware sees each message as with `enqueue`.
        """
        prepared = [self._prepare(message, delay, False) for message in messages]
        self._publisher.publish_many([publication for _, publication in prepared], ENQUEUE_PATIENCE)
        for message, _ in prepared:
            self.emit_after("enqueue", message, delay)
        return [message for message, _ in prepared]

    def check_length(self, queue_name: str) -> None:
        """Before work is done for a message: raises QueueFull when it would not be enqueued.

        What is not known at once, without a queue that is declared and a NATS that is there, is
        left to `enqueue`. Raises ConnectionClosed, ConnectionFailed.
        """
        known = self.connection.connected and q_name(queue_name) in self._declared
        if self._limit is not None and known:
            self._limit.check(q_name(queue_name))

    def wait_for_confirms(self, timeout: float | None = None) -> None:
        """Until all that was enqueued is confirmed. `timeout` is in milliseconds.

        Raises ConnectionClosed when it is up, and what the server refused meanwhile.
        """
        if self._window is not None:
            self._window.wait(math.inf if timeout is None else timeout / 1000)

    def _prepare(
        self, message: Message[Any], delay: float | None, idempotent: bool
    ) -> tuple[Message[Any], Publication]:
        """What travels, after all hooks before it."""
        if self.closed:
            raise ConnectionClosed("the broker is closed")
        queue_name = q_name(message.queue_name)
        self.declare_queue(queue_name)
        message = self._envelopes.with_eta(message, queue_name, delay)
        self.emit_before("enqueue", message, delay)
        if queue_name not in self._declared:
            self.declare_now(queue_name)
        if self._limit is not None:
            self._limit.admit(queue_name)
        message_id = f"={message.message_id}" if idempotent else self._ids.next()
        return message, self._envelopes.publication(message, queue_name, delay, message_id)

    # Receiving

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> NatsConsumer:
        """`timeout` is in milliseconds.

        Raises QueueNotFound, ConnectionFailed, ConnectionClosed.
        """
        if q_name(queue_name) not in self.queues:
            raise QueueNotFound(queue_name)
        self.declare_now(queue_name)
        consumer = NatsConsumer(self, queue_name, prefetch, timeout)
        self.consumers.add(consumer)
        if self.paused:
            consumer.pause()
        return consumer

    def bury(self, queue_name: str, arrival: Arrival, reason: str, error: str = "") -> None:
        """Put a copy of a delivered message among the dead letters, with the reason it is there."""
        self._dead_letters.bury(q_name(queue_name), arrival, reason, error)

    def hand_back(self, arrival: Arrival) -> None:
        """Give a message that has not begun back to the queue; the next free worker gets it."""
        if self.runs is not None:
            self.runs.handed_back(delivery_of(arrival.reply))
        self.held.settle(arrival.reply, NAK)

    def pause(self) -> None:
        """Take no message in this process until `resume`; what waits here goes back to the queue.

        What runs goes on, and is acknowledged. Idempotent.
        """
        self.paused = True
        for consumer in list(self.consumers):
            consumer.pause()

    def resume(self) -> None:
        """Take messages again. Idempotent."""
        if self.paused:
            self.paused = False
            for consumer in list(self.consumers):
                consumer.resume()

    def stop_pulling(self) -> None:
        """Take no further message in this process; what waits here goes back to the queue."""
        for consumer in list(self.consumers):
            consumer.stop_pulling()

    # Looking and clearing

    def get_queue_stats(self) -> dict[str, QueueStats]:
        """Of every declared queue, in one request for up to 256 consumers of the namespace."""
        self._settle_here()
        return self._queues.stats(self.queues.copy())

    def get_lane_stats(self, queue_name: str) -> list[LaneStats]:
        """Of each priority of the queue, the highest first."""
        self._settle_here()
        return self._queues.lane_stats(q_name(queue_name))

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """(ready, delayed, dead) of the queue; what workers hold counts nowhere."""
        stats = self._stats(queue_name)
        return stats.ready, stats.delayed, stats.dead

    def _stats(self, queue_name: str) -> QueueStats:
        self._settle_here()
        name = q_name(queue_name)
        return self._queues.stats([name])[name]

    def _length(self, queue_name: str) -> int:
        return self._queues.stats([queue_name])[queue_name].unfinished

    def _settle_here(self) -> None:
        """What this process has sent counts."""
        self.held.drain(PATIENCE)
        if self._window is not None:
            self._window.wait(PATIENCE)

    def get_dead_letters(self, queue_name: str) -> list[DeadLetter]:
        """Messages that were given up, oldest first."""
        return self._dead_letters.of(q_name(queue_name))

    def requeue_dead_letters(
        self, queue_name: str, message_ids: Iterable[str] | None = None
    ) -> int:
        """Give dead letters another chance, all or those with these ids; returns how many.

        They begin anew: retries and age count from now. Bytes that are no message stay.
        """
        return self._dead_letters.requeue(q_name(queue_name), message_ids)

    def flush(self, queue_name: str) -> None:
        """Drop every message of the queue: ready, delayed, dead. What workers hold still runs."""
        self._settle_here()
        self._queues.purge(q_name(queue_name))

    def flush_all(self) -> None:
        """Flush every declared queue."""
        for queue_name in self.queues.copy():
            self.flush(queue_name)

    def join(self, queue_name: str, *, timeout: float | None = None) -> None:
        """Wait until nothing is ready, delayed or in flight, here or elsewhere.

        `timeout` is in milliseconds. Raises QueueJoinTimeout.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout / 1000
        while self._stats(queue_name).unfinished:
            if time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(JOIN_POLL_SECONDS)

    def close(self) -> None:
        """Stop pulling, wait for confirmations, hang up; no thread is left. Idempotent.

        Raises ConnectionClosed when messages of a window were never confirmed: they are lost.
        """
        if self.closed:
            return
        self.closed = True
        for consumer in list(self.consumers):
            consumer.close()
        self.held.close(_CLOSE_SECONDS)
        if self.runs is not None:
            self.runs.close()
        unconfirmed = self._window.close() if self._window is not None else 0
        self._publisher.close()
        if self._own_connection:
            self.connection.close()
        if unconfirmed:
            raise ConnectionClosed(f"{unconfirmed} messages were never confirmed")


def _check(ack_wait: float, max_priority: int | None, confirm: str) -> None:
    if ack_wait < MIN_ACK_WAIT:
        raise ValueError(f"ack_wait must be at least {MIN_ACK_WAIT} seconds")
    if not 0 <= (max_priority or 0) <= MAX_PRIORITY:
        raise ValueError(f"max_priority must be between 0 and {MAX_PRIORITY}")
    if confirm not in ("sync", "window"):
        raise ValueError('confirm must be "sync" or "window"')
