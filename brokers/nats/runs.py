"""How often a message was begun, for those that were delivered more than once.

The server counts deliveries. But a message may be delivered and never begin: it was handed back, or
it waited beside the one that killed their process. So what counts for `max_deliver` is written down
here, before a message that comes again is begun. Of a first delivery nothing is written, since
nearly every message has no other; if it comes again, it counts as begun unless it was handed back.
"""

from __future__ import annotations

import logging

from dramatiq.errors import BrokerError

from .buckets import Bucket
from .connection import NatsConnection
from .messages import Delivery
from .streams import StreamOptions, encode

MAX_AGE = 86_400.0
"""Seconds that a count is kept after its last change."""
PATIENCE = 2.0
"""Seconds that a message waits for its count to be written; then it begins all the same."""

log = logging.getLogger(__name__)


class Runs:
    """Counts of one namespace, by the message's number in the stream. `limit` is `max_deliver`."""

    def __init__(
        self, connection: NatsConnection, namespace: str, options: StreamOptions, limit: int
    ) -> None:
        self.limit = limit
        self._assumed = 1 if limit > 1 else 0  # with a limit of 1, first deliveries are written too
        self._bucket = Bucket(
            connection,
            f"{encode(namespace)}-runs",
            max_age=MAX_AGE,
            replicas=options.replicas,
            storage=options.storage,
        )

    def of(self, delivery: Delivery) -> int:
        """How often the message was begun before this delivery."""
        if delivery.count == 1:
            return 0
        try:
            value = self._bucket.get(str(delivery.sequence), patience=PATIENCE).value
        except BrokerError as error:
            log.warning("a message's count of runs cannot be read: %s", error)
            return 0
        return self._assumed + int(value or 0)

    def begins(self, delivery: Delivery) -> None:
        """The message of this delivery begins now."""
        if delivery.count > 1 or not self._assumed:
            self._write(delivery, self.of(delivery) + 1)

    def handed_back(self, delivery: Delivery) -> None:
        """The message of this delivery has not begun, and will not here."""
        if delivery.count == 1 and self._assumed:
            self._write(delivery, 0)

    def _write(self, delivery: Delivery, runs: int) -> None:
        try:
            value = str(runs - self._assumed).encode()
            self._bucket.put(str(delivery.sequence), value, patience=PATIENCE)
        except BrokerError as error:
            log.warning("a message's count of runs cannot be written: %s", error)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._bucket.close()
