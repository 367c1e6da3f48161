"""An API that halts where jobs ask for it: `gunicorn "tests.faults.halting_api:api()"`.

All of it is the real one; some of its methods are wrapped.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from flask import Flask

from app import factory
from brokers import idempotency
from brokers.queue import JobQueue
from tests.faults.phases import HALT, halt

LEASE_SECONDS = 5.0
"""For so long nobody takes over what this API was asked for with a key: the real one has 30."""


class Point(StrEnum):
    """Of a submission, in their order."""

    ANNOUNCED = "announced"
    """Receivers are told of it; the job is not on the queue."""
    ENQUEUED = "enqueued"
    """The job is on the queue; it has no record."""
    RECORDED = "recorded"
    """All is done but the answer."""


def api() -> Flask:
    """What the product's `api` does, with halts."""
    idempotency.LEASE_SECONDS = LEASE_SECONDS
    put, enqueue = JobQueue.put_many, JobQueue._enqueue

    def halting_put(self: JobQueue, jobs: Any) -> Any:
        done = put(self, jobs)
        _halt_at(Point.RECORDED, jobs)
        return done

    def halting_enqueue(self: JobQueue, jobs: Any, *args: Any) -> Any:
        jobs = list(jobs)
        _halt_at(Point.ANNOUNCED, jobs)
        done = enqueue(self, jobs, *args)
        _halt_at(Point.ENQUEUED, jobs)
        return done

    JobQueue.put_many = halting_put  # type: ignore[method-assign]
    JobQueue._enqueue = halting_enqueue  # type: ignore[method-assign]
    return factory.api()


def _halt_at(point: Point, jobs: Any) -> None:
    for job in jobs:
        if job.metadata.get(HALT) == point:
            halt(point, job.metadata["WHO"])
