"""What one process does for all: whoever has the duty keeps it for as long as he asks for it."""

from __future__ import annotations

from brokers import subjects
from brokers.nats.buckets import Bucket
from brokers.nats.compare_and_set import Changes, Write
from brokers.nats.connection import NatsConnection


class Duty:
    """One duty, for one process. Two may have it for a moment, when their clocks disagree."""

    def __init__(
        self, connection: NatsConnection, name: str, holder: str, *, seconds: float
    ) -> None:
        """`seconds` without a word of its holder, and another process may have it."""
        self._bucket = Bucket(connection, subjects.DUTY_BUCKET, max_age=86_400.0)
        self._changes = Changes(self._bucket)
        self._name = name
        self._holder = holder.encode()
        self._seconds = seconds

    def mine(self, *, patience: float = 0.0) -> bool:
        """Take it unless another process has it, or keep it.

        Raises ConnectionClosed or ConnectionFailed.
        """
        return self._changes.change(self._name, self._decide, patience=patience)

    def _decide(self, holder: bytes | None) -> Write | None:
        if holder not in (None, self._holder):
            return None
        return Write(self._holder, self._seconds)

    def close(self) -> None:
        """Hang up; the duty is another process's once its time is over. Idempotent."""
        self._bucket.close()
