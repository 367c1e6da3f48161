"""What is known of a job: its record.

The record is the one truth about a job. Every revision of it is kept for as long as the record
itself, so its revisions are the job's history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from time import time
from typing import Any

from executors.job import Job, JobState, Priority, Step

MAX_TEXT = 512
"""Characters of a name, an image, or a metadata value in a record; what is longer is cut."""
MAX_METADATA = 100
"""Entries of a job's metadata in its record."""


class StepState(StrEnum):
    """The life of a step, in the words that travel on the wire."""

    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    """It was running when its job was stopped."""
    SKIPPED = "Skipped"
    """Its job was over before its turn came."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One step of the attempt that runs or ran last."""

    id: int
    name: str
    image: str
    state: StepState = StepState.WAITING
    exit_code: int | None = None
    timed_out: bool = False
    oom_killed: bool = False
    reason: str = ""
    tries: int = 0
    """How often it has run in this attempt."""
    started_at: str = ""
    """RFC 3339, UTC, like all times of a record; empty: not yet."""
    finished_at: str = ""

    @classmethod
    def of(cls, step: Step) -> StepRecord:
        """Of a step whose turn has not come."""
        return cls(id=step.id, name=_cut(step.name), image=_cut(step.image))


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """No script and no secret: those travel on the queue alone."""

    id: str
    name: str
    priority: str
    """`high`, `medium` or `low`."""
    submitted_by: str = ""
    """Name of the API key; empty: none was needed."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The job's own, its secrets masked."""
    step_names: tuple[str, ...] = ()
    """How messages call the steps, all of them, in order."""
    state: JobState = JobState.QUEUED
    reason: str = ""
    attempt: int = 0
    """Of the attempt that runs or ran last, from 1; 0: none yet. It only ever grows."""
    worker: str = ""
    lost: int = 0
    """Attempts whose worker was lost."""
    errors: int = 0
    """Attempts that the machine failed."""
    tries: int = 0
    """Attempts that failed by themselves, and were tried again because the job asks for it."""
    queued_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    updated_at: str = ""
    steps: tuple[StepRecord, ...] = ()
    """All of them, in order."""
    queue_seq: int = 0
    """Number of its message in the queue's stream; 0: not known."""
    callbacks: bool = False
    """Whether somebody wants to be called when its state changes."""

    @classmethod
    def of(cls, job: Job, metadata: Mapping[str, str] | None = None) -> JobRecord:
        """The record of a job that nobody has worked on. `metadata` has its secrets masked."""
        now = utc_now()
        return cls(
            id=job.id,
            name=_cut(job.name),
            priority=Priority.of(job.priority).label,
            submitted_by=job.submitted_by,
            metadata=_some_of(metadata or {}),
            step_names=tuple(_cut(step.label) for step in job.steps),
            queued_at=now,
            updated_at=now,
            steps=tuple(map(StepRecord.of, job.steps)),
            callbacks=bool(job.callback_url or job.status_callback_url),
        )

    def with_message(self, queue_seq: int) -> JobRecord:
        """The same, with the number of its message."""
        return replace(self, queue_seq=queue_seq)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return {
            **_fields(self),
            "metadata": dict(self.metadata),
            "step_names": list(self.step_names),
            "steps": [_fields(step) for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobRecord:
        """Fields that this version does not know are left out."""
        known = _known(cls, data)
        known["state"] = JobState(known["state"])
        known["step_names"] = tuple(known.get("step_names", ()))
        known["steps"] = tuple(map(_step_of, known.get("steps", ())))
        return cls(**known)


def _fields(record: JobRecord | StepRecord) -> dict[str, Any]:
    """`asdict` copies everything, in a hundred microseconds."""
    return {name: getattr(record, name) for name in record.__slots__}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _some_of(metadata: Mapping[str, str]) -> dict[str, str]:
    short = ((key, _cut(text)) for key, text in metadata.items() if len(key) <= MAX_TEXT)
    return dict(islice(short, MAX_METADATA))


def _step_of(data: Mapping[str, Any]) -> StepRecord:
    known = _known(StepRecord, data)
    if "state" in known:
        known["state"] = StepState(known["state"])
    return StepRecord(**known)


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {key: value for key, value in data.items() if key in names}


def utc_now() -> str:
    """This moment, as records write it."""
    return utc_at(time())


def utc_at(seconds: float) -> str:
    """A moment in seconds since the epoch, as records write it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
