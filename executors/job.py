"""What a job is: an ordered list of steps, each an image and a script, over one `/shared`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

SHARED_DIR = "/shared"
"""Where all steps of a job see the same directory; also their working directory."""
MAX_PAUSE = 300.0
"""Seconds; no pause before a retry is longer."""


class JobState(StrEnum):
    """The life of a job, in the words that travel on the wire."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @property
    def final(self) -> bool:
        """Whether a job in this state stays in it."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)


class Priority(IntEnum):
    """The three levels of the queue."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3

    @classmethod
    def of(cls, number: int) -> Priority:
        """The level of a submission's number: 3 and above high, 2 medium, 1 and below low."""
        return cls(max(cls.LOW, min(cls.HIGH, number)))

    @property
    def label(self) -> str:
        """`high`, `medium` or `low`."""
        return self.name.lower()


class OutputStream(StrEnum):
    """Which of a step's two outputs, in the words of the log's JSON."""

    STDOUT = "stdout"
    STDERR = "stderr"


class RetryOn(StrEnum):
    """What a run can end by that may go better the next time."""

    FAILURE = "failure"
    """An exit code other than 0."""
    TIMEOUT = "timeout"
    OOM = "oom"
    IMAGE = "image"
    """The image could not be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often, when and after which ends a step or a job is run again."""

    max: int = 0
    """Runs on top of the first."""
    backoff_seconds: float = 0.0
    """The pause before the first retry."""
    on: tuple[RetryOn, ...] = (RetryOn.FAILURE,)

    def pause(self, number: int) -> float:
        """Seconds before this retry, counted from 1: twice the last pause, at most MAX_PAUSE."""
        return min(MAX_PAUSE, self.backoff_seconds * 2.0 ** min(number - 1, 64))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return {**_fields(self), "on": [str(end) for end in self.on]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Retry:
        """Raises TypeError or ValueError when `data` did not come from `to_dict`."""
        fields = dict(data)
        if "on" in fields:
            fields["on"] = tuple(RetryOn(word) for word in fields["on"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One container's worth of work."""

    id: int = 0
    """Cosmetic number of the client's; the order of the list is what counts."""
    name: str = ""
    image: str
    script: str = ""
    """Run by the image's shell; empty: the image's own entrypoint and command."""
    continue_on_error: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The step's own environment."""
    cpu_limit: int = 0
    """Whole cores; 0: no limit."""
    memory_limit: int = 0
    """Bytes; 0: no limit."""
    memory_swap: int = 0
    """Bytes of memory and swap together; 0: the executor's default."""
    pids_limit: int = 0
    """Processes; 0: no limit."""
    network: str = ""
    """`none`, `bridge`, `default` or the name of a network; empty: the executor's default."""
    timeout_seconds: int = 0
    """For each of its runs; 0: only the job's own."""
    retry: Retry = Retry()

    @property
    def label(self) -> str:
        """How messages call the step: its name, else its number."""
        return self.name or str(self.id)

    def to_dict(self) -> dict[str, Any]:
        """As `Job.to_dict`."""
        return {
            **_fields(self),
            "metadata": dict(self.metadata),
            "retry": self.retry.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Step:
        """As `Job.from_dict`."""
        return cls(**_with_retry(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What was submitted, checked and numbered."""

    id: str
    """UUID in its canonical text form."""
    name: str
    priority: int = int(Priority.HIGH)
    timestamp: str = "0001-01-01T00:00:00Z"
    """RFC 3339, as the client wrote it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Environment of every step."""
    steps: tuple[Step, ...]
    callback_url: str = ""
    """Told the log when the job has ended."""
    status_callback_url: str = ""
    """Told every change of the job's state."""
    timeout_seconds: int = 0
    """For the whole job, from Running on; 0: none."""
    retry: Retry = Retry()
    """Of the whole job, in a fresh workspace."""
    submitted_by: str = ""
    """Name of the API key, from the server and never from the client; empty: none was named."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the queue; `from_dict` is the inverse."""
        return {
            **_fields(self),
            "metadata": dict(self.metadata),
            "steps": [step.to_dict() for step in self.steps],
            "retry": self.retry.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Raises TypeError, ValueError or KeyError when `data` did not come from `to_dict`.

        What an earlier version wrote lacks the later fields: they get their defaults.
        """
        fields = _with_retry(data)
        steps = tuple(Step.from_dict(step) for step in fields.pop("steps"))
        return cls(**fields, steps=steps)


def _fields(thing: Job | Step | Retry) -> dict[str, Any]:
    """A tenth of the time that `dataclasses.asdict` takes: it copies everything."""
    return {name: getattr(thing, name) for name in thing.__slots__}


def _with_retry(data: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(data)
    if "retry" in fields:
        fields["retry"] = Retry.from_dict(fields["retry"])
    return fields


def environment(job: Job, step: Step) -> dict[str, str]:
    """What the step finds in its environment on top of its image's own.

    Later wins: the job's metadata, the injected priority, the step's metadata, `UUID`, `JOB_NAME`.
    """
    level = Priority.of(job.priority)
    return {
        **job.metadata,
        "hades.tum.de/priority": str(int(level)),
        "hades.tum.de/priorityName": level.label,
        **step.metadata,
        "UUID": job.id,
        "JOB_NAME": job.name,
    }


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a step's output."""

    timestamp: str
    """RFC 3339 with microseconds, UTC."""
    message: str
    output_stream: OutputStream


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBatch:
    """Some consecutive lines of one step; an empty batch registers the step's slot."""

    job_id: str
    attempt: int
    step: int
    """Index of the step, from 0."""
    container_id: str
    sequence: int
    """Position among all batches of the attempt, from 0."""
    entries: tuple[LogEntry, ...]
