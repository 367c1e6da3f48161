"""One record a job: what is known of it, changed only by compare-and-set.

A state that is final stays. An attempt is claimed before it runs; whoever is not the attempt that
the record names can change nothing any more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from brokers import subjects
from brokers.nats.buckets import PATIENCE, Bucket
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import RevisionConflict
from executors.errors import AttemptLost
from executors.job import Job, JobState, Priority

FOREVER = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """How one step ended; a step that has not run yet has no record."""

    id: int
    name: str
    image: str
    exit_code: int | None
    timed_out: bool = False
    oom_killed: bool = False
    reason: str = ""
    started_at: str
    """RFC 3339, UTC, like all times of a record."""
    finished_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """No script and no metadata: those may hold secrets, and travel on the queue alone."""

    id: str
    name: str
    priority: str
    """`high`, `medium` or `low`."""
    step_names: tuple[str, ...] = ()
    """How messages call the steps, all of them, in order."""
    state: JobState = JobState.QUEUED
    reason: str = ""
    attempt: int = 0
    """Of the attempt that runs or ran last, from 1; 0: none yet."""
    worker: str = ""
    queued_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    steps: tuple[StepRecord, ...] = ()

    @classmethod
    def of(cls, job: Job) -> JobRecord:
        """The record of a job that nobody has worked on."""
        return cls(
            id=job.id,
            name=job.name,
            priority=Priority.of(job.priority).label,
            step_names=tuple(step.label for step in job.steps),
            queued_at=utc_now(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobRecord:
        """Fields that this version does not know are left out."""
        known = _known(cls, data)
        known["state"] = JobState(known["state"])
        known["step_names"] = tuple(known.get("step_names", ()))
        known["steps"] = tuple(StepRecord(**_known(StepRecord, step)) for step in known["steps"])
        return cls(**known)


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {key: value for key, value in data.items() if key in names}


def utc_now() -> str:
    """This moment, as records write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class JobStore:
    """All records. `patience` is how long, in seconds, it waits for NATS to come back."""

    def __init__(
        self, connection: NatsConnection, *, max_age: float, patience: float = PATIENCE
    ) -> None:
        self._bucket = Bucket(connection, subjects.RECORD_BUCKET, max_age=max_age)
        self._patience = patience

    def create(self, record: JobRecord) -> None:
        """Store the record of a new job. Raises RevisionConflict when there is one."""
        self._put(record, expected=0)

    def get(self, job_id: str) -> JobRecord | None:
        """None for a job that is not known (any more)."""
        return self._read(job_id)[0]

    def ids(self) -> list[str]:
        """Of every job with a record."""
        return self._bucket.keys()

    def claim(self, job: Job, worker: str) -> JobRecord | None:
        """Start the next attempt of the job; None when the job is over already."""

        def start(record: JobRecord | None) -> JobRecord | None:
            record = record or JobRecord.of(job)
            if record.state.final:
                return None
            return replace(
                record,
                state=JobState.RUNNING,
                attempt=record.attempt + 1,
                worker=worker,
                started_at=utc_now(),
                steps=(),
            )

        return self._change(job.id, start)

    def finish(
        self, claimed: JobRecord, state: JobState, reason: str, steps: tuple[StepRecord, ...]
    ) -> JobRecord:
        """End the attempt. Raises AttemptLost when it is not the job's current one."""
        ended = replace(claimed, state=state, reason=reason, steps=steps, finished_at=utc_now())

        def end(record: JobRecord | None) -> JobRecord:
            if record != ended:  # else it was stored, and only the server's answer got lost
                _must_be_current(record, claimed)
            return ended

        return _there(self._change(claimed.id, end))

    def withdraw(self, job_id: str, reason: str) -> JobRecord | None:
        """Fail a job that did not reach the queue; None when it did after all, or is not known."""

        def end(record: JobRecord | None) -> JobRecord | None:
            if record is None or record.state is not JobState.QUEUED or record.attempt > 0:
                return None
            return replace(record, state=JobState.FAILED, reason=reason, finished_at=utc_now())

        return self._change(job_id, end)

    def give_back(self, claimed: JobRecord, *, counted: bool) -> JobRecord:
        """The attempt ended without an outcome: the job waits again. Raises AttemptLost."""

        def wait(record: JobRecord | None) -> JobRecord:
            _must_be_current(record, claimed)
            attempt = claimed.attempt if counted else claimed.attempt - 1
            return replace(
                claimed, state=JobState.QUEUED, attempt=attempt, worker="", started_at=""
            )

        return _there(self._change(claimed.id, wait))

    def _change(
        self, job_id: str, change: Callable[[JobRecord | None], JobRecord | None]
    ) -> JobRecord | None:
        while True:
            record, revision = self._read(job_id)
            changed = change(record)
            if changed is None:
                return None
            try:
                self._put(changed, expected=revision)
            except RevisionConflict:
                continue
            return changed

    def _read(self, job_id: str) -> tuple[JobRecord | None, int]:
        entry = self._bucket.get(job_id, patience=self._patience)
        if entry.value is None:
            return None, entry.revision
        return JobRecord.from_dict(json.loads(entry.value)), entry.revision

    def _put(self, record: JobRecord, *, expected: int) -> None:
        value = json.dumps(record.to_dict()).encode()
        self._bucket.put(record.id, value, expected=expected, patience=self._patience)

    @property
    def stream(self) -> str:
        """Which keeps the records."""
        return self._bucket.stream

    def subject(self, job_id: str) -> str:
        """Where changes of the record are published, as its JSON."""
        return self._bucket.subject(job_id)


def _must_be_current(record: JobRecord | None, claimed: JobRecord) -> None:
    if record is None or record.state.final or record.attempt != claimed.attempt:
        raise AttemptLost(f"attempt {claimed.attempt} of job {claimed.id} is not current any more")


def _there(record: JobRecord | None) -> JobRecord:
    assert record is not None
    return record
