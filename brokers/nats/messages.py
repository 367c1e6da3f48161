"""A message that a worker holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from .held import ACK, nak_for
from .protocol import Arrival

if TYPE_CHECKING:
    from .consumer import NatsConsumer


class NatsMessage(MessageProxy):
    """Held by this process until it is acknowledged or handed back.

    While it is being processed, `retry_in`, `leave` and `done` say what is to become of it.
    """

    def __init__(self, message: Message[Any], arrival: Arrival, consumer: NatsConsumer) -> None:
        super().__init__(message)
        self.arrival = arrival
        self.ack_subject = arrival.reply
        self.consumer = consumer
        self.deliveries = delivery_of(arrival.reply).count
        self.verdict: bytes | None = ACK

    def __str__(self) -> str:
        """For Dramatiq's log lines: without the arguments, which may hold secrets."""
        return f"{self.message_id} of {self.actor_name}"

    def retry_in(self, seconds: float) -> None:
        """Deliver it again after this time. It never leaves the queue meanwhile."""
        self.verdict = nak_for(seconds)

    def done(self) -> None:
        """Acknowledge it after all."""
        self.verdict = ACK

    def leave(self) -> None:
        """Say nothing to the server: somebody else holds the message by now."""
        self.verdict = None


class Delivery:
    """What an ack subject says."""

    __slots__ = ("count", "sequence")

    def __init__(self, count: int, sequence: int) -> None:
        self.count = count
        """How many times the server has delivered the message, this time included."""
        self.sequence = sequence
        """The message's number in the stream."""


def delivery_of(ack_subject: str) -> Delivery:
    """`$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<count>.<sequence>...`"""
    tokens = ack_subject.split(".")
    first = 4 if len(tokens) == 9 else 6
    return Delivery(int(tokens[first]), int(tokens[first + 1]))
