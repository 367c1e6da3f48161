"""Which workers are alive, and what each says of itself. Who says nothing for a while is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from brokers import subjects
from brokers.nats.buckets import PATIENCE, Bucket
from brokers.nats.connection import NatsConnection

GONE_SECONDS = 30.0
"""Silence after which a worker is not listed any more."""


class WorkerState(StrEnum):
    """Whether a worker takes jobs."""

    RUNNING = "running"
    PAUSED = "paused"
    """It can't run any at the moment, and says why."""
    DRAINING = "draining"
    """It finishes what it has, and leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """What a worker says of itself."""

    name: str
    host: str
    pid: int
    executor: str
    version: str
    concurrency: int
    busy: int = 0
    """Jobs that it runs."""
    state: WorkerState = WorkerState.RUNNING
    reason: str = ""
    """Why it is paused."""
    started_at: str = ""
    """RFC 3339, UTC."""
    seen_at: str = ""
    """When it said so."""


class WorkerRegistry:
    """`patience` is how long, in seconds, it waits for NATS to come back."""

    def __init__(self, connection: NatsConnection, *, patience: float = PATIENCE) -> None:
        self._bucket = Bucket(connection, subjects.WORKER_BUCKET)
        self._patience = patience

    def tell(self, status: WorkerStatus) -> None:
        """To be repeated well within GONE_SECONDS."""
        value = json.dumps(asdict(status)).encode()
        self._bucket.put(_key(status.name), value, ttl=GONE_SECONDS, patience=self._patience)

    def leave(self, name: str) -> None:
        """The worker is gone, and says so."""
        self._bucket.delete(_key(name))

    def list(self) -> list[WorkerStatus]:
        """Those that are alive, by name."""
        keys = self._bucket.keys()
        found = self._bucket.patiently(
            lambda line: self._bucket.read_from_leader(line, keys), self._patience
        )
        values = [entry.current for entry in found.values()]
        statuses = [_status(json.loads(value)) for value in values if value is not None]
        return sorted(statuses, key=lambda status: status.name)


def _key(name: str) -> str:
    """As it stands in the subject, too."""
    return name.encode().hex()


def _status(data: Mapping[str, Any]) -> WorkerStatus:
    """Fields that this version does not know are left out."""
    names = {field.name for field in fields(WorkerStatus)}
    known = {name: value for name, value in data.items() if name in names}
    return WorkerStatus(**{**known, "state": WorkerState(known["state"])})
