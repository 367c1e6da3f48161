"""What the routes below `/v1` work with, and how many of them may wait at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from app.index.reader import JobIndex
from brokers.idempotency import IdempotencyKeys
from brokers.log_reader import LogReader
from brokers.nats import LaneStats, QueueStats
from brokers.record_watch import RecordWatch
from brokers.records import JobRecord
from executors.job import Job


class Queue(Protocol):
    """Where jobs go, and what becomes of them there. All raise executors.errors.QueueError."""

    def put_many(self, jobs: Sequence[Job]) -> list[JobRecord]:
        """All of them are accepted, or none."""

    def stop(self, job_id: str, reason: str) -> JobRecord | None:
        """None: it was over, or is not known."""

    def retry(self, job: Job) -> JobRecord | None:
        """None: it is not over, or not known."""

    def without_secrets(self, job: Job) -> dict[str, Any]:
        """What may be shown of it."""

    def shown(self, job_id: str) -> dict[str, Any] | None:
        """The job as it was submitted, without its secrets."""


class Records(Protocol):
    """The truth about each job."""

    def get(self, job_id: str) -> JobRecord | None:
        """None for a job that is not known (any more)."""

    def history(self, job_id: str) -> list[tuple[int, JobRecord]]:
        """Each change that is still kept, in order, with its revision."""


class Lanes(Protocol):
    """The queue in numbers."""

    def get_lane_stats(self, queue_name: str) -> list[LaneStats]:
        """Of each priority."""

    def get_queue_stats(self) -> dict[str, QueueStats]:
        """Of each queue."""


class Workers(Protocol):
    """Who runs jobs."""

    def list(self) -> Sequence[Any]:
        """Dataclasses: what each living worker says of itself."""


class Waiters:
    """Those who hold a thread while nothing happens; the other threads stay free."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """Whether there is room for it."""
        admitted = self.enter()
        try:
            yield admitted
        finally:
            if admitted:
                self.leave()

    def enter(self) -> bool:
        """Whether there is room for one more; then it must `leave`."""
        return self._free.acquire(blocking=False)

    def leave(self) -> None:
        """Make room."""
        self._free.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The collaborators of all routes."""

    queue: Queue
    records: Records
    index: JobIndex
    keys: IdempotencyKeys
    watch: RecordWatch
    logs: LogReader
    lanes: Lanes
    workers: Workers
    waiters: Waiters
