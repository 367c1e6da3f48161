"""Whether NATS answers at the moment."""

from __future__ import annotations

from brokers.nats.connection import NatsConnection
from brokers.nats.entries import checked
from brokers.nats.requester import Requester


class NatsProbe:
    """Asks JetStream for a few numbers, over a connection of its own."""

    def __init__(self, connection: NatsConnection) -> None:
        self._requester = Requester(connection.open_wire)

    def __call__(self) -> None:
        """Raises brokers.nats.errors.BrokerError when it does not answer, within some seconds."""
        with self._requester.line() as line:
            checked(line.ask("$JS.API.INFO"))
