"""How a job's record may change: pure functions from one record to the next. No I/O.

    (none) -> Queued -> Running -> Succeeded | Failed | Stopped
                 ^         |                         |
                 +---------+  handed back            |
                 +-----------------------------------+  an explicit retry

An attempt is claimed before it runs, under a number that no earlier attempt had. Who holds another
attempt than the record names, or one whose job is over, can change nothing: AttemptLost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from brokers.records import JobRecord, StepRecord, StepState
from executors.errors import AttemptLost
from executors.job import JobState


class HandBack(StrEnum):
    """Why an attempt ends without an outcome."""

    DRAINED = "drained"
    """Its worker was told to go, or cannot run jobs: nobody's fault, so it is not counted."""
    ERROR = "error"
    """The machine failed."""
    RETRY = "retry"
    """It failed by itself, and the job asks for another try."""


def claimed(record: JobRecord, worker: str, *, queue_seq: int, now: str) -> JobRecord | None:
    """The next attempt begins; None: the job is over, or a later message than this one asks for it.
    One that still runs has lost its worker. `queue_seq` 0: no message is known.
    """
    if record.state.final or 0 < queue_seq < record.queue_seq:
        return None
    return replace(
        record,
        state=JobState.RUNNING,
        reason="",
        attempt=record.attempt + 1,
        worker=worker,
        lost=record.lost + (record.state is JobState.RUNNING),
        queue_seq=queue_seq,
        started_at=now,
        finished_at="",
        updated_at=now,
        steps=afresh(record.steps),
    )


def progressed(
    record: JobRecord | None, attempt: int, steps: Sequence[StepRecord], *, now: str
) -> JobRecord:
    """The attempt has come further. Raises AttemptLost."""
    return replace(current(record, attempt), steps=tuple(steps), updated_at=now)


def finished(
    record: JobRecord | None,
    attempt: int,
    state: JobState,
    reason: str,
    steps: Sequence[StepRecord],
    *,
    now: str,
) -> JobRecord:
    """The attempt ends the job. Raises AttemptLost."""
    return over(replace(current(record, attempt), steps=tuple(steps)), state, reason, now=now)


def handed_back(
    record: JobRecord | None, attempt: int, why: HandBack, *, now: str, reason: str = ""
) -> JobRecord:
    """The attempt ends without an outcome: the job waits again. Raises AttemptLost."""
    held = current(record, attempt)
    return replace(
        held,
        state=JobState.QUEUED,
        reason=reason,
        worker="",
        errors=held.errors + (why is HandBack.ERROR),
        tries=held.tries + (why is HandBack.RETRY),
        started_at="",
        updated_at=now,
        steps=afresh(held.steps),
    )


def stopped(record: JobRecord | None, reason: str, *, now: str) -> JobRecord | None:
    """Somebody does not want the job any more; None: it is over, or not known."""
    if record is None or record.state.final:
        return None
    return over(record, JobState.STOPPED, reason, now=now)


def withdrawn(
    there: JobRecord | None, refused: JobRecord, reason: str, *, now: str
) -> JobRecord | None:
    """The job was refused, but may have reached the queue; None: somebody has taken it, or it was
    submitted or retried by another request."""
    record = there or refused
    if record.state is not JobState.QUEUED or not _same_try(record, refused):
        return None
    return over(record, JobState.FAILED, reason, now=now)


def abandoned(
    there: JobRecord | None, seen: JobRecord, reason: str, *, now: str
) -> JobRecord | None:
    """Nobody will run the job any more; None: the record is not what it was when it was seen."""
    if there != seen or seen.state.final:
        return None
    return over(seen, JobState.FAILED, reason, now=now)


def retried(record: JobRecord | None, *, now: str) -> JobRecord | None:
    """A job that is over waits again, with all its chances; None: it is not over, or not known."""
    if record is None or not record.state.final:
        return None
    return replace(
        record,
        state=JobState.QUEUED,
        reason="",
        worker="",
        lost=0,
        errors=0,
        tries=0,
        queued_at=now,
        started_at="",
        finished_at="",
        updated_at=now,
        queue_seq=0,
        steps=afresh(record.steps),
    )


def current(record: JobRecord | None, attempt: int) -> JobRecord:
    """The record, for whoever holds this attempt. Raises AttemptLost."""
    if record is None or record.state is not JobState.RUNNING or record.attempt != attempt:
        raise AttemptLost(f"attempt {attempt} is not the job's current one any more")
    return record


def over(record: JobRecord, state: JobState, reason: str, *, now: str) -> JobRecord:
    """No step is left open."""
    return replace(
        record,
        state=state,
        reason=reason,
        finished_at=now,
        updated_at=now,
        steps=tuple(_closed(step, now) for step in record.steps),
    )


def _closed(step: StepRecord, now: str) -> StepRecord:
    if step.state is StepState.RUNNING:
        return replace(step, state=StepState.STOPPED, finished_at=now)
    if step.state is StepState.WAITING:
        return replace(step, state=StepState.SKIPPED)
    return step


def afresh(steps: Sequence[StepRecord]) -> tuple[StepRecord, ...]:
    """As they were before any attempt."""
    return tuple(StepRecord(id=step.id, name=step.name, image=step.image) for step in steps)


def noted(there: JobRecord | None, queued: JobRecord, queue_seq: int) -> JobRecord | None:
    """The message of a job that waits is known; None: it does not wait any more."""
    if there is None or there.state is not JobState.QUEUED or not _same_try(there, queued):
        return None
    return replace(there, queue_seq=queue_seq)


def _same_try(one: JobRecord, other: JobRecord) -> bool:
    """Asked for at the same time, and no attempt has begun between them."""
    return (one.attempt, one.queued_at) == (other.attempt, other.queued_at)
