"""What Dramatiq's worker reads from: one queue, over a wire of its own.

The worker's consumer thread receives in `__next__`, where it also reconnects; worker threads
acknowledge, which frees a slot and may ask for more at once.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic, sleep, time
from typing import TYPE_CHECKING

from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import BrokerConnectionError, BrokerError, DecodeError

from . import protocol
from .errors import ConnectionClosed, DeliveryLimitExceeded
from .held import ACK, nak_for
from .messages import NatsMessage, delivery_of
from .protocol import Arrival
from .pulls import EXPIRES_SECONDS, HEARTBEAT_SECONDS, SWEEP, Order, Pull, plan
from .wire import Wire

if TYPE_CHECKING:
    from .broker import NatsBroker

RETRY_SECONDS = 0.25
"""Pause after a failure, before the server is asked again; jittered by up to as much again."""
SETTLE_SECONDS = 3.0
"""How long a closing consumer waits for what is on its way."""

_LATER = nak_for(10.0)
_HEARTBEAT = "100"
_EXPIRED = ("404", "408")
_SWEEPS, _ROUNDS = 1, 2  # subscription ids: of all sweeps, and from where those of rounds begin

log = logging.getLogger(__name__)


class NatsConsumer(Consumer):
    """Created by `NatsBroker.consume`. `timeout` is in milliseconds."""

    def __init__(self, broker: NatsBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self._broker = broker
        self._queue_name = queue_name
        self._timeout = timeout / 1000
        self._lanes = broker.pulled_consumers(queue_name)
        self._arrived: deque[Arrival] = deque()
        self._etas: list[float] = []
        self._lock = threading.Lock()  # of the plan, and of what it orders
        self._outgoing: deque[bytes] = deque()
        self._sending = threading.Lock()
        self._plan = plan(prefetch, len(self._lanes))
        self._declared = True
        self._stopped = threading.Event()
        self._heard = monotonic()
        self._wire: Wire | None = self._open()

    # The connection

    def _open(self) -> Wire:
        wire = self._broker.connection.open_wire()
        with self._lock:
            self._wire = wire
            self._outgoing.clear()
            self._outgoing.append(protocol.subscription(f"{wire.inbox}.{SWEEP}.>", _SWEEPS))
            self._order(self._plan.start())
        self._flush()
        self._heard = monotonic()
        return wire

    def _order(self, orders: Iterable[Order]) -> None:
        """With the lock; `_flush`, without it, sends what was ordered."""
        if self._wire is not None:
            self._outgoing.extend(self._frames(orders, self._wire.inbox))

    def _flush(self) -> None:
        """One thread sends, for all that come meanwhile: nobody waits for the network here. On a
        broken wire nothing happens: the next one starts all over."""
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                frames = b"".join([self._outgoing.popleft() for _ in range(len(self._outgoing))])
                if self._wire is not None:
                    self._wire.send(frames)
            except (ConnectionClosed, IndexError) as error:  # IndexError: a new wire cleared it
                log.debug("%s: %r", self._queue_name, error)
            finally:
                self._sending.release()

    def _frames(self, orders: Iterable[Order], inbox: str) -> Iterable[bytes]:
        for order in orders:
            if isinstance(order, Pull):
                if order.waits:
                    kind, number, _ = order.token.split(".")
                    sid = _ROUNDS + int(number)
                    yield protocol.subscription(f"{inbox}.{kind}.{number}.*", sid)
                yield self._request(order, f"{inbox}.{order.token}")
            else:
                yield protocol.unsubscription(_ROUNDS + order.round)

    def _request(self, pull: Pull, reply: str) -> bytes:
        request: dict[str, object] = {"batch": pull.batch}
        if pull.waits:
            request["expires"] = int(EXPIRES_SECONDS * 1e9)
            request["idle_heartbeat"] = int(HEARTBEAT_SECONDS * 1e9)
        else:
            request["no_wait"] = True
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._broker.names.stream}.{self._lanes[pull.lane]}"
        return protocol.publication(subject, reply, b"", json.dumps(request).encode())

    # Receiving

    def __next__(self) -> NatsMessage | None:
        deadline = monotonic() + self._patience()
        while True:
            if self._arrived and (message := self._hand_out()) is not None:
                return message
            left = deadline - monotonic()
            if left <= 0:
                return None
            try:
                self._receive(left)
            except BrokerConnectionError as error:
                log.debug("%s: %s", self._queue_name, error)
                self._drop_wire()
                self._stopped.wait(min(max(0.0, deadline - monotonic()), _pause()))

    def _receive(self, timeout: float) -> None:
        if self._stopped.is_set() and self._wire is None:
            sleep(timeout)
            return
        if not self._declared:
            self._declare_again()
        wire = self._wire or self._open()
        for arrival in wire.receive(max(0.001, timeout)):
            self._take(arrival)
        if not self._declared:
            raise ConnectionClosed("the server has dropped the pulls")
        if wire.lame:
            for arrival in wire.settle(SETTLE_SECONDS):
                self._take(arrival)
            self._drop_wire()
        elif monotonic() - self._heard > self._plan.patience:
            self._heard, self._declared = monotonic(), False

    def _drop_wire(self) -> None:
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _declare_again(self) -> None:
        """Somebody deleted the consumer or the stream, or another leader must know us."""
        self._broker.declare_now(self._queue_name)
        self._declared = True
        with self._lock:
            self._order(self._plan.start())
        self._flush()

    def _take(self, arrival: Arrival) -> None:
        self._heard = monotonic()
        status = arrival.status
        if not status or arrival.reply:  # a sender may have made up a status of his own
            self._accept(arrival)
        elif status in _EXPIRED:
            token = ".".join(arrival.subject.split(".")[-3:])
            remaining = int(arrival.headers.get("Nats-Pending-Messages", 0))
            with self._lock:
                self._order(self._plan.ended(token, remaining))
            self._flush()
        elif status != _HEARTBEAT:
            log.debug("%s: the server says %r", self._queue_name, arrival.head)
            self._declared = False

    def _accept(self, arrival: Arrival) -> None:
        lane = self._broker.lane_of_subject(arrival.subject)
        with self._lock:
            accepted, orders = self._plan.arrived(lane)
            if accepted:
                self._broker.held.add(arrival.reply)
                self._arrived.append(arrival)
            self._order(orders)
        self._flush()
        if not accepted:
            self._broker.hand_back(arrival)

    def _patience(self) -> float:
        """Wake in time for what the worker delays in memory: it looks between two messages."""
        if not self._etas:
            return self._timeout
        now = time()
        self._etas = [eta for eta in self._etas if eta > now]
        return max(0.001, min([self._timeout, *(eta - now for eta in self._etas)]))

    def _hand_out(self) -> NatsMessage | None:
        try:
            arrival = self._arrived.popleft()
        except IndexError:  # `stop_pulling` was faster
            return None
        try:
            message = NatsMessage(Message.decode(arrival.data), arrival, self)
        except DecodeError as error:
            self._bury_undecodable(arrival, error)
            return None
        if message.queue_name != self._queue_name:
            message = NatsMessage(message.copy(queue_name=self._queue_name), arrival, self)
        self._note_eta(message)
        self._check_limit(message)
        return message

    def _note_eta(self, message: NatsMessage) -> None:
        eta = message.options.get("eta")
        if isinstance(eta, (int, float)):
            self._etas.append(eta / 1000)

    def _check_limit(self, message: NatsMessage) -> None:
        """A failed message is not run: the worker passes it to `nack`, and its hooks see why."""
        runs = self._broker.runs
        if runs is None or message.deliveries <= runs.limit:
            return
        begun = runs.of(delivery_of(message.ack_subject))
        if begun >= runs.limit:
            message.fail()
            message.stuff_exception(DeliveryLimitExceeded(begun, runs.limit))

    def _bury_undecodable(self, arrival: Arrival, error: DecodeError) -> None:
        log.error("message cannot be decoded, moved to the dead letters: %s", error)
        try:
            self._broker.bury(self._queue_name, arrival, f"DecodeError: {error}")
        except BrokerError as failure:
            log.error("it cannot be moved yet: %s", failure)
            self._settle(arrival.reply, _LATER)
        else:
            self._settle(arrival.reply, ACK)

    # Settling; from any thread, also when this consumer is closed

    def ack(self, message: MessageProxy) -> None:
        """The message was processed. The server is told in the background, until it confirms."""
        assert isinstance(message, NatsMessage)
        message.consumer._settle(message.ack_subject, message.verdict)

    def nack(self, message: MessageProxy) -> None:
        """The message failed for good: it moves to the dead letters.

        Raises ConnectionClosed, ConnectionFailed: then it is still held, and the worker calls
        again. After any other error, like QueueFull, it comes back after a while.
        """
        assert isinstance(message, NatsMessage)
        try:
            self._broker.bury(message.queue_name, message.arrival, *_why(message))
        except BrokerConnectionError:
            raise
        except BaseException:
            message.consumer._settle(message.ack_subject, _LATER)
            raise
        message.consumer._settle(message.ack_subject, ACK)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand messages back unprocessed; another worker gets them at once."""
        for message in messages:
            assert isinstance(message, NatsMessage)
            self._broker.hand_back(message.arrival)
            message.consumer._release()

    def _settle(self, ack_subject: str, verdict: bytes | None) -> None:
        if verdict is None:
            self._broker.held.let_go(ack_subject)
        else:
            self._broker.held.settle(ack_subject, verdict)
        self._release()

    def _release(self) -> None:
        with self._lock:
            self._order(self._plan.released())
        self._flush()

    # The end

    def resume(self) -> None:
        """Take messages again after a pause."""
        with self._lock:
            self._order(self._plan.resume())
        self._flush()

    def stop_pulling(self) -> None:
        """`pause` for good."""
        self.pause()
        self._stopped.set()

    def pause(self) -> None:
        """Take no further message; those that wait in this process go back. Idempotent."""
        with self._lock:
            self._order(self._plan.stop())
        self._flush()
        with suppress(IndexError):  # none is left, or the consumer thread was faster
            while True:
                self._broker.hand_back(self._arrived.popleft())

    def close(self) -> None:
        """Stop pulling and hang up. Messages in progress can still be acknowledged. Idempotent."""
        self.stop_pulling()
        wire = self._wire
        try:
            if wire is not None and not wire.closed:
                for arrival in wire.settle(SETTLE_SECONDS):
                    if arrival.reply:
                        self._broker.hand_back(arrival)
        except ConnectionClosed as error:
            log.debug("%s: %s", self._queue_name, error)
        self._drop_wire()
        self._broker.held.drain(SETTLE_SECONDS)
        self._broker.consumers.discard(self)


def _why(message: NatsMessage) -> tuple[str, str]:
    """The reason in one line, and the traceback."""
    error = message._exception
    if error is None:
        return "rejected", ""
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _pause() -> float:
    return RETRY_SECONDS * (1 + random.random())
