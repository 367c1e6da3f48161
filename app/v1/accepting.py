"""Jobs onto the queue, once for each idempotency key.

A request that was begun and not seen through may have been refused, or its process may be gone. In
the one case its jobs are withdrawn as soon as NATS is back, in the other they are queued, recorded
or neither. So whoever takes it over waits a moment, and then looks at the records.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import sleep
from typing import Any
from uuid import uuid4

from app.v1.problems import Problem, Refused, conflict
from app.v1.services import Services
from brokers.idempotency import KeyBusy, KeyReused, Reservation, Stage
from brokers.records import JobRecord
from executors.errors import QueueError
from executors.job import Job, JobState

SETTLE_SECONDS = 2.0
"""What is about to be withdrawn is, after so long with NATS there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """`ids` in the order of the jobs."""

    ids: tuple[str, ...]
    records: dict[str, JobRecord]
    """Those that are known without asking."""
    replayed: bool = False
    """By an earlier request with the same key."""


def accept(services: Services, jobs: Sequence[Job], caller: str, key: str, body: Any) -> Accepted:
    """Raises QueueError, Refused; then none of the jobs will run. An empty key is none."""
    if not key or not jobs:
        return _put(services, jobs)
    ids = [job.id for job in jobs]
    try:
        held = services.keys.reserve(caller, key, _fingerprint(body), ids)
        if held.stage is Stage.DONE:
            return Accepted(ids=held.ids, records={}, replayed=True)
        return _see_through(services, held, jobs)
    except KeyReused:
        raise Refused(_REUSED) from None
    except KeyBusy as error:
        raise Refused(_busy(error.seconds)) from None


def _see_through(services: Services, held: Reservation, jobs: Sequence[Job]) -> Accepted:
    there: dict[str, JobRecord] = {}
    if held.stage is Stage.ABANDONED:
        sleep(SETTLE_SECONDS)
        held, there = _take_over(services, held, len(jobs))
    numbered = [replace(job, id=job_id) for job, job_id in zip(jobs, held.ids, strict=True)]
    try:
        put = _put(services, [job for job in numbered if job.id not in there])
    except QueueError:
        services.keys.forget(held)
        raise
    services.keys.done(held)
    return Accepted(ids=held.ids, records={**there, **put.records})


def _take_over(
    services: Services, held: Reservation, count: int
) -> tuple[Reservation, dict[str, JobRecord]]:
    """The ids to go on with, and the records of those that were accepted already."""
    found = {job_id: services.records.get(job_id) for job_id in held.ids}
    there = {
        job_id: record
        for job_id, record in found.items()
        if record is not None and not _was_withdrawn(record)
    }
    ids = [job_id if _usable(found[job_id]) else str(uuid4()) for job_id in held.ids]
    if len(ids) != count:  # another version of the schema counts otherwise
        ids, there = [str(uuid4()) for _ in range(count)], {}
    return (held if tuple(ids) == held.ids else services.keys.exchange(held, ids)), there


def _usable(record: JobRecord | None) -> bool:
    return record is None or not _was_withdrawn(record)


def _was_withdrawn(record: JobRecord) -> bool:
    """It has failed without ever being tried: so it was refused, and will not run."""
    return record.state is JobState.FAILED and record.attempt == 0


def _put(services: Services, jobs: Sequence[Job]) -> Accepted:
    records = services.queue.put_many(jobs) if jobs else []
    return Accepted(
        ids=tuple(job.id for job in jobs), records={record.id: record for record in records}
    )


def _fingerprint(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


_REUSED = Problem(
    kind="idempotency-key-reused",
    status=422,
    title="The idempotency key belongs to another request",
    detail="send another body under another Idempotency-Key",
)


def _busy(seconds: float) -> Problem:
    problem = conflict(
        "idempotency-key-busy",
        "A request with this idempotency key is being worked on",
        "send it again later",
    )
    return replace(problem, headers={"Retry-After": str(max(1, math.ceil(seconds)))})
