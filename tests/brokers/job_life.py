"""What may become of a job's record, said a second time and in other words: a model to test by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from brokers.job_store import Lease
from brokers.records import JobRecord, StepState
from brokers.transitions import HandBack
from executors.job import JobState
from tests.brokers.interleaving import Actor

OPEN_STEPS = {StepState.WAITING, StepState.RUNNING}
COUNTERS = ("lost", "errors", "tries")
FIXED = ("id", "name", "priority", "submitted_by", "metadata", "step_names", "callbacks")


@dataclass(kw_only=True)
class Operation:
    """One call of the store, and what has come of it so far."""

    kind: str
    who: str
    lease: Lease | None = None
    held: int = 0
    """Attempt of the lease."""
    why: HandBack | None = None
    seen: JobRecord | None = None
    sequence: int = 0
    """Of the message that a claim is for."""
    asked: list[int] = field(default_factory=list)
    """Attempts whose workers were asked whether they live."""
    actor: Actor | None = None
    writes: list[tuple[JobRecord, int]] = field(default_factory=list)
    lost: int = 0
    """Requests that were not answered."""
    met: set[JobState | None] = field(default_factory=set)
    """States of the record since it began."""


def check_write(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    """The write is one that this operation may make on this record."""
    if before is not None:
        assert [getattr(before, name) for name in FIXED] == [getattr(after, name) for name in FIXED]
        assert before.updated_at <= after.updated_at
    check_shape(after)
    {
        "submit": _submitted,
        "claim": _claimed,
        "progress": _progressed,
        "finish": _finished,
        "give_back": _given_back,
        "stop": _stopped,
        "retry": _retried,
        "note": _noted,
        "withdraw": _withdrawn,
        "abandon": _abandoned,
    }[operation.kind](operation, before, after)


def check_shape(record: JobRecord) -> None:
    """Whatever has happened to it."""
    if record.state.final:
        assert not OPEN_STEPS & {step.state for step in record.steps}
        assert record.finished_at
    else:
        assert not record.finished_at
    if record.state is JobState.QUEUED:
        assert {step.state for step in record.steps} == {StepState.WAITING}
        assert (record.worker, record.started_at) == ("", "")
    if record.state is JobState.RUNNING:
        assert record.worker and record.started_at and record.attempt >= 1


def counters(record: JobRecord | None) -> list[int]:
    return [0, 0, 0] if record is None else [getattr(record, name) for name in COUNTERS]


def _submitted(_: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before is None
    assert (after.state, after.attempt, counters(after)) == ("Queued", 0, [0, 0, 0])


def _claimed(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before is None or not before.state.final
    assert (after.state, after.worker) == ("Running", operation.who)
    assert after.attempt == (before.attempt if before else 0) + 1
    lost, errors, tries = counters(before)
    taken_over = before is not None and before.state is JobState.RUNNING
    assert counters(after) == [lost + taken_over, errors, tries]
    assert after.queue_seq == operation.sequence
    if before is not None and operation.sequence:
        assert operation.sequence >= before.queue_seq, "a later message asks for it"
    if before is not None and taken_over:
        assert before.attempt in operation.asked, "its worker was not asked"
    assert {step.state for step in after.steps} == {StepState.WAITING}


def _held(operation: Operation, before: JobRecord | None) -> JobRecord:
    """It was the attempt's own to change."""
    assert before is not None
    assert (before.state, before.attempt) == ("Running", operation.held)
    return before


def _progressed(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    same = replace(_held(operation, before), steps=after.steps, updated_at=after.updated_at)
    assert after == same


def _finished(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    held = _held(operation, before)
    assert after.state.final
    assert (after.attempt, counters(after)) == (held.attempt, counters(held))


def _given_back(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    held = _held(operation, before)
    assert (after.state, after.attempt) == ("Queued", held.attempt)
    lost, errors, tries = counters(held)
    errors += operation.why is HandBack.ERROR
    tries += operation.why is HandBack.RETRY
    assert counters(after) == [lost, errors, tries]
    assert after.queue_seq == held.queue_seq


def _stopped(_: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before is not None and not before.state.final
    assert (after.state, after.attempt) == ("Stopped", before.attempt)
    assert counters(after) == counters(before)


def _retried(_: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before is not None and before.state.final
    assert (after.state, after.attempt, counters(after)) == ("Queued", before.attempt, [0, 0, 0])
    assert after.queue_seq == 0


def _noted(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert operation.seen is not None and before is not None
    assert (before.state, before.attempt) == ("Queued", operation.seen.attempt)
    assert before.queued_at == operation.seen.queued_at
    assert after == replace(before, queue_seq=after.queue_seq)


def _withdrawn(_: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before is None or (before.state, before.attempt) == ("Queued", 0)
    assert (after.state, after.attempt) == ("Failed", 0)


def _abandoned(operation: Operation, before: JobRecord | None, after: JobRecord) -> None:
    assert before == operation.seen
    assert before is not None and not before.state.final
    assert (after.state, after.attempt) == ("Failed", before.attempt)


def check_end(operation: Operation, now: JobRecord | None) -> None:
    """What the caller was told agrees with what was written."""
    actor = operation.actor
    assert actor is not None and actor.over
    assert len(operation.writes) <= 1 + operation.lost
    if actor.error is not None:
        _check_refusal(operation, actor.error, now)
        return
    if operation.kind == "claim" and actor.result is None and not operation.met & _FINAL:
        assert now is not None and operation.sequence < now.queue_seq
    if operation.kind in _ANSWERS_NONE and actor.result is None:
        assert operation.lost or not operation.writes
        assert operation.met & _NONE_BECAUSE.get(operation.kind, set(JobState) | {None})
    elif operation.kind not in ("submit", "note"):
        _check_success(operation, actor.result)


_FINAL: set[JobState | None] = {state for state in JobState if state.final}
_ANSWERS_NONE = {"claim", "stop", "retry", "withdraw", "abandon"}
_NONE_BECAUSE: dict[str, set[JobState | None]] = {
    "claim": {*_FINAL, JobState.QUEUED, JobState.RUNNING},
    "stop": {None, *_FINAL},
    "retry": {None, JobState.QUEUED, JobState.RUNNING},
}


def _check_refusal(operation: Operation, error: BaseException, now: JobRecord | None) -> None:
    assert operation.lost or not operation.writes, "who was refused has changed something"
    if type(error).__name__ == "AttemptLost":
        assert now is not None
        assert (now.state, now.attempt) != ("Running", operation.held), "it was current all along"
    else:
        assert type(error).__name__ in ("StillRunning", "ConnectionClosed"), repr(error)


def _check_success(operation: Operation, result: Any) -> None:
    lease = result if isinstance(result, Lease) else operation.lease
    if lease is not None:
        assert (lease.record, lease.revision) == operation.writes[-1]
    if isinstance(result, JobRecord):
        assert result == operation.writes[-1][0]
