"""Results of actors in a key-value bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from dramatiq.encoder import Encoder
from dramatiq.results import Missing, ResultBackend, ResultMissing, ResultTimeout
from dramatiq.results.backend import DEFAULT_TIMEOUT

from .buckets import Bucket, Storage
from .connection import NatsConnection
from .servers import DEFAULT_URL, ConnectArguments
from .streams import encode
from .watches import wait


class NatsResultBackend(ResultBackend):
    """`ResultBackend` on NATS. Times are in milliseconds, as Dramatiq's are.

    A `connection` may be shared with the broker; without one, `url`, `servers` and `login` are as
    the broker's. `storage` and `replicas` are the bucket's: what is kept in memory is gone when
    NATS restarts, and the storage of a bucket that exists can't be changed (JetStreamError). A
    result larger than the server's max_payload can't be stored (MessageTooLarge).

    A result is over after its TTL, by the clocks of who stored it and who asks: keep them together
    (NTP), for they shift it by their difference.
    """

    def __init__(
        self,
        *,
        url: str = DEFAULT_URL,
        servers: Sequence[str] | None = None,
        namespace: str = "dramatiq-results",
        encoder: Encoder | None = None,
        use_namespace_prefix_keys: bool = False,
        connection: NatsConnection | None = None,
        storage: Storage = "file",
        replicas: int = 1,
        **login: Unpack[ConnectArguments],
    ) -> None:
        super().__init__(
            namespace=namespace,
            encoder=encoder,
            use_namespace_prefix_keys=use_namespace_prefix_keys,
        )
        self._own_connection = connection is None
        self._connection = connection or NatsConnection(servers or url, **login)
        self._bucket = Bucket(
            self._connection, encode(namespace), storage=storage, replicas=replicas
        )

    def get_result(self, message: Any, *, block: bool = False, timeout: int | None = None) -> Any:
        """The result, as soon as it is stored when it `block`s: for `timeout` ms (10,000) at most.

        Raises ResultMissing, or ResultTimeout when it blocked; ResultFailure for what an actor
        raised; ConnectionClosed or ConnectionFailed without NATS.
        """
        key = self.build_message_key(message)
        if block:
            seconds = (DEFAULT_TIMEOUT if timeout is None else timeout) / 1000
            result = self._decode(wait(self._bucket, key, seconds).value)
        else:
            result = self._get(key)
        if result is Missing:
            raise (ResultTimeout if block else ResultMissing)(message)
        return self.unwrap_result(result)  # type: ignore[no-untyped-call]

    def _get(self, message_key: str) -> Any:
        return self._decode(self._bucket.get(message_key).value)

    def _decode(self, value: bytes | None) -> Any:
        return Missing if value is None else self.encoder.decode(value)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        self._bucket.put(message_key, self.encoder.encode(result), ttl=ttl / 1000)

    def close(self) -> None:
        """Close the connection, unless it was given from outside. Idempotent."""
        self._bucket.close()
        if self._own_connection:
            self._connection.close()
