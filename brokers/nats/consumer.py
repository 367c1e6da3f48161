"""What Dramatiq's worker reads from: one queue, and the messages that it holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from time import time
from typing import TYPE_CHECKING, Any

from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import DecodeError
from nats.aio.msg import Msg

from .errors import DeliveryLimitExceeded
from .puller import Puller, hand_back

if TYPE_CHECKING:
    from .broker import NatsBroker

log = logging.getLogger(__name__)


class NatsMessage(MessageProxy):
    """A message that this process holds until it is acknowledged or handed back.

    While it is being processed, `retry_in` and `leave` say what is to become of it instead.
    """

    def __init__(self, message: Message[Any], raw: Msg, consumer: NatsConsumer) -> None:
        super().__init__(message)
        self.raw = raw
        self.ack_subject = raw.reply
        self.consumer = consumer
        self.deliveries = deliveries(raw)
        self.verdict: bytes | None = b"+ACK"

    def __str__(self) -> str:
        """For Dramatiq's log lines: without the arguments, which may hold secrets."""
        return f"{self.message_id} of {self.actor_name}"

    def retry_in(self, seconds: float) -> None:
        """Deliver it again after this time. It never leaves the queue meanwhile."""
        self.verdict = b"-NAK " + json.dumps({"delay": int(seconds * 1e9)}).encode()

    def leave(self) -> None:
        """Say nothing to the server: somebody else holds the message by now."""
        self.verdict = None


def deliveries(raw: Msg) -> int:
    """How many times the server has delivered the message, this time included."""
    return int(raw.metadata.num_delivered or 1)


class NatsConsumer(Consumer):
    """Created by `NatsBroker.consume`. `timeout` is in milliseconds."""

    def __init__(self, broker: NatsBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self._broker = broker
        self._queue_name = queue_name
        self._timeout = timeout / 1000
        self._arrived: SimpleQueue[Msg] = SimpleQueue()
        self._etas: list[float] = []
        connection = broker.connection
        self._puller = Puller(
            connection.client,
            stream=broker.names.stream,
            consumers=broker.lane_consumers(queue_name),
            slots=prefetch,
            deliver=self._deliver,
            declare=lambda: broker.declare_on_server(queue_name),
        )
        self._forget_reconnects = connection.on_reconnect(self._puller.wake)
        self._pulling = connection.spawn(self._puller.run())

    def _deliver(self, raw: Msg) -> None:
        """On the loop: hold the message from now on, and pass it to the worker's thread."""
        self._broker.held.add(raw.reply)
        self._arrived.put(raw)

    def __next__(self) -> NatsMessage | None:
        try:
            raw = self._arrived.get(timeout=self._patience())
        except Empty:
            return None
        try:
            message = NatsMessage(Message.decode(raw.data), raw, self)
        except DecodeError as error:
            self._bury_undecodable(raw, error)
            return None
        if message.queue_name != self._queue_name:
            message = NatsMessage(message.copy(queue_name=self._queue_name), raw, self)
        self._note_eta(message)
        self._check_limit(message)
        return message

    def _patience(self) -> float:
        """Wake in time for what the worker delays in memory: it looks between two messages."""
        now = time()
        self._etas = [eta for eta in self._etas if eta > now]
        return max(0.001, min([self._timeout, *(eta - now for eta in self._etas)]))

    def _note_eta(self, message: NatsMessage) -> None:
        eta = message.options.get("eta")
        if isinstance(eta, (int, float)):
            self._etas.append(eta / 1000)

    def _check_limit(self, message: NatsMessage) -> None:
        """A failed message is not run: the worker passes it to `nack`, and its hooks see why."""
        limit = self._broker.max_deliver
        if limit is not None and message.deliveries > limit:
            message.fail()
            message.stuff_exception(DeliveryLimitExceeded(message.deliveries - 1, limit))

    def _bury_undecodable(self, raw: Msg, error: DecodeError) -> None:
        log.error("message cannot be decoded, moved to the dead letters: %s", error)
        self._broker.bury(self._queue_name, raw, f"DecodeError: {error}")
        self._settle(raw.reply, b"+ACK", self)

    def ack(self, message: MessageProxy) -> None:
        """The message was processed. Returns when the server knows."""
        assert isinstance(message, NatsMessage)
        self._settle(message.ack_subject, message.verdict, message.consumer)

    def nack(self, message: MessageProxy) -> None:
        """The message failed for good: it moves to the dead letters."""
        assert isinstance(message, NatsMessage)
        self._broker.bury(message.queue_name, message.raw, _why(message))
        self._settle(message.ack_subject, b"+ACK", message.consumer)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand messages back unprocessed; another worker gets them at once."""
        for message in messages:
            assert isinstance(message, NatsMessage)
            self._settle(message.ack_subject, b"-NAK", message.consumer)

    def _settle(self, ack_subject: str, verdict: bytes | None, owner: NatsConsumer) -> None:
        self._broker.settle(ack_subject, verdict)
        self._broker.connection.call_soon(owner._puller.release)

    def stop_pulling(self) -> None:
        """Take no further message; those that wait in this process go back. Idempotent."""
        connection = self._broker.connection
        connection.run(self._puller.close())
        self._pulling.result(timeout=self._timeout + 10)
        while not self._arrived.empty():
            reply = self._arrived.get().reply
            self._broker.held.discard(reply)
            connection.run(hand_back(connection.client, reply))

    def close(self) -> None:
        """Stop pulling. Messages in progress can still be acknowledged."""
        self._forget_reconnects()
        self._forget_reconnects = lambda: None
        if not self._broker.closed:
            self.stop_pulling()
        self._broker.consumers.discard(self)


def _why(message: NatsMessage) -> str:
    error = message._exception
    return f"{type(error).__name__}: {error}" if error is not None else "rejected"
