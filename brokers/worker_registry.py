"""Which workers there are, as they say themselves, again and again, for as long as they live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from brokers import subjects
from brokers.nats.buckets import PATIENCE, Bucket
from brokers.nats.connection import NatsConnection

BEAT_SECONDS = 10.0
"""How often a worker says that it is there."""
FORGET_SECONDS = 35.0
"""After so long a silence a worker is gone."""


class WorkerState(StrEnum):
    """What a worker is up to."""

    RUNNING = "running"
    PAUSED = "paused"
    """It cannot run jobs at the moment."""
    DRAINING = "draining"
    """It finishes its jobs and takes no further ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """What one worker process says of itself."""

    name: str
    host: str
    pid: int
    executor: str
    version: str
    concurrency: int
    """Jobs that it runs at once."""
    busy: int = 0
    """Jobs that it runs now."""
    state: WorkerState = WorkerState.RUNNING
    reason: str = ""
    """Why it is paused."""
    started_at: str
    """RFC 3339, UTC, like `seen_at`."""
    seen_at: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkerStatus:
        """Fields that this version does not know are left out."""
        known = {key: value for key, value in data.items() if key in cls.__slots__}
        return cls(**{**known, "state": WorkerState(known["state"])})


class WorkerRegistry:
    """All workers that live. `patience` is in seconds."""

    def __init__(self, connection: NatsConnection, *, patience: float = PATIENCE) -> None:
        self._bucket = Bucket(connection, subjects.WORKER_BUCKET, max_age=3600.0, storage="memory")
        self._patience = patience

    def put(self, status: WorkerStatus) -> None:
        """Say what is so now."""
        value = json.dumps(status.to_dict()).encode()
        self._bucket.put(status.name, value, ttl=FORGET_SECONDS, patience=self._patience)

    def remove(self, name: str) -> None:
        """The worker goes."""
        self._bucket.delete(name)

    def list(self) -> list[WorkerStatus]:
        """By name."""
        found = self._bucket.values(patience=self._patience)
        return sorted(
            (WorkerStatus.from_dict(json.loads(value)) for value in found),
            key=lambda status: status.name,
        )
