"""The story of one attempt: Running, each step, the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import monotonic

from brokers.events import MAX_REASON, Events
from brokers.job_store import JobRecord, JobStore, StepRecord, utc_now
from executors.base import NullSink, StepResult, TimeLimit, Workspace
from executors.job import Job, JobState, Step
from executors.logs import LogBatcher
from executors.redact import mask, secrets_of
from executors.steps import (
    Deadline,
    Masking,
    Refusals,
    StepCall,
    StepContext,
    StepLogs,
    chain,
    run_in_workspace,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Attempt:
    """A claimed job and the place where it runs."""

    job: Job
    record: JobRecord
    workspace: Workspace
    steps: list[StepRecord] = field(default_factory=list)


class Runner:
    """Tells what happens through `events`, and writes the outcome into `store`.

    Methods raise AttemptLost when another attempt has taken over, and InfrastructureError when the
    machine failed: then nothing is told yet, and the job may be tried again.
    """

    def __init__(self, store: JobStore, events: Events, *, log_limit: int) -> None:
        self._store = store
        self._events = events
        self._log_limit = log_limit

    def run(self, attempt: Attempt) -> None:
        """Run every step and end the job."""
        job, record = attempt.job, attempt.record
        log.info("job runs", extra={"job_id": job.id, "attempt": record.attempt})
        deadline = monotonic() + job.timeout_seconds if job.timeout_seconds else None
        batcher = LogBatcher(job.id, record.attempt, self._events.log)
        try:
            reason = self._run_steps(attempt, self._chain(job, batcher, deadline))
        finally:
            batcher.close()  # before the state: who reads Succeeded finds a complete log
        state = JobState.FAILED if reason else JobState.SUCCEEDED
        self.finish(job, record, state, reason, attempt.steps)

    def started(self, record: JobRecord) -> None:
        """Say that the attempt runs."""
        self._events.status(record.id, JobState.RUNNING, attempt=record.attempt)

    def finish(
        self,
        job: Job,
        record: JobRecord,
        state: JobState,
        reason: str,
        steps: list[StepRecord],
    ) -> None:
        """End the job, on the record first: that is the truth."""
        reason = presentable(reason, job)
        ended = self._store.finish(record, state, reason, tuple(steps))
        self._events.ended(ended)
        log.info("job ended", extra={"job_id": job.id, "state": str(state)})

    def ended(self, record: JobRecord) -> None:
        """Tell again how the job ended: whoever ended it may have died before it could."""
        self._events.ended(record)

    def _chain(self, job: Job, batcher: LogBatcher, deadline: float | None) -> StepCall:
        return chain(
            [
                StepLogs(batcher, limit=self._log_limit),
                Masking(secrets_of(job)),
                Refusals(),
                Deadline(deadline),
            ],
            run_in_workspace,
        )

    def _run_steps(self, attempt: Attempt, call: StepCall) -> str:
        """Why the job failed; empty when it did not."""
        job = attempt.job
        for index, step in enumerate(job.steps):
            started_at = utc_now()
            result = call(
                StepContext(
                    job=job,
                    step=step,
                    index=index,
                    workspace=attempt.workspace,
                    sink=NullSink(),
                )
            )
            attempt.steps.append(_step_record(job, step, result, started_at))
            if result.limit is TimeLimit.JOB:
                return f"job timed out after {job.timeout_seconds} seconds"
            if not result.succeeded and not step.continue_on_error:
                return why(result)
        return ""


def why(result: StepResult) -> str:
    """The reason of a step that did not succeed, in the seed's words."""
    if result.reason:
        return result.reason
    text = f"container exited with status {result.exit_code}"
    return f"{text} (out of memory)" if result.oom_killed else text


def presentable(reason: str, job: Job) -> str:
    """Without secrets, and short enough for a header."""
    reason = mask(reason, secrets_of(job))
    return reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + "…"


def _step_record(job: Job, step: Step, result: StepResult, started_at: str) -> StepRecord:
    return StepRecord(
        id=step.id,
        name=step.name,
        image=step.image,
        exit_code=result.exit_code,
        timed_out=result.timed_out,
        oom_killed=result.oom_killed,
        reason=presentable(result.reason, job),
        started_at=started_at,
        finished_at=utc_now(),
    )
