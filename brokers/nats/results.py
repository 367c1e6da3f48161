"""Results of actors in a key-value bucket."""

from __future__ import annotations

from typing import Any

from dramatiq.encoder import Encoder
from dramatiq.results import Missing, ResultBackend

from .buckets import Bucket
from .connection import NatsConnection
from .streams import encode


class NatsResultBackend(ResultBackend):
    """`ResultBackend` on NATS. A `connection` may be shared with the broker."""

    def __init__(
        self,
        *,
        url: str = "nats://localhost:4222",
        namespace: str = "dramatiq-results",
        encoder: Encoder | None = None,
        use_namespace_prefix_keys: bool = False,
        connection: NatsConnection | None = None,
    ) -> None:
        super().__init__(
            namespace=namespace,
            encoder=encoder,
            use_namespace_prefix_keys=use_namespace_prefix_keys,
        )
        self._own_connection = connection is None
        self._connection = connection or NatsConnection(url)
        self._bucket = Bucket(self._connection, encode(namespace))

    def _get(self, message_key: str) -> Any:
        value = self._bucket.get(message_key).value
        return Missing if value is None else self.encoder.decode(value)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        self._bucket.put(message_key, self.encoder.encode(result), ttl=ttl / 1000)

    def close(self) -> None:
        """Close the connection, unless it was given from outside. Idempotent."""
        if self._own_connection:
            self._connection.close()
