"""The story of one attempt: Running, each step, the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic

from brokers.events import MAX_REASON, Events
from brokers.job_store import JobStore, Lease
from brokers.records import JobRecord, StepRecord, StepState, utc_now
from brokers.transitions import HandBack
from executors.base import NullSink, StepResult, TimeLimit, Workspace
from executors.errors import AttemptLost, Stopped
from executors.job import Job, JobState
from executors.logs import LogBatcher
from executors.redact import mask, secrets_of
from executors.retrying import Retrying, ends_of
from executors.steps import (
    Asking,
    Deadline,
    Masking,
    Preparing,
    Refusals,
    StepCall,
    StepContext,
    StepLogs,
    chain,
    run_in_workspace,
)
from workers.attempts import Running

log = logging.getLogger(__name__)


class Again(Exception):
    """The job failed, and asks for another try."""

    def __init__(self, reason: str, pause: float) -> None:
        """`pause` is in seconds."""
        super().__init__(reason)
        self.pause = pause


@dataclass(kw_only=True, slots=True)
class Attempt:
    """A claimed job and the place where it runs."""

    job: Job
    lease: Lease
    workspace: Workspace
    running: Running
    unfinished: Exception | None = None
    """Why it ended without an outcome, although nothing went wrong."""
    steps: list[StepRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = list(self.lease.record.steps)

    def wait(self, seconds: float) -> None:
        """Raises Stopped as soon as the attempt is stopped."""
        if self.running.stopping.wait(seconds):
            raise Stopped("the attempt was stopped")


@dataclass(frozen=True, slots=True)
class _Failure:
    """The step's result that made the job fail, and how that is told."""

    result: StepResult
    reason: str


class Runner:
    """Tells what happens through `events`, and writes it into `store` first: that is the truth.

    Methods raise AttemptLost when another attempt has taken over, and InfrastructureError when the
    machine failed: then nothing is told yet, and the job may be tried again.
    """

    def __init__(
        self, store: JobStore, events: Events, *, log_limit: int, pull_timeout: float = 600.0
    ) -> None:
        """`pull_timeout` is in seconds, for each step's image."""
        self._store = store
        self._events = events
        self._log_limit = log_limit
        self._pull_timeout = pull_timeout

    def run(self, attempt: Attempt) -> None:
        """Run every step and end the job, or say in `attempt.unfinished` why not."""
        try:
            self._run(attempt)
        except (AttemptLost, Stopped, Again) as error:
            attempt.unfinished = error

    def _run(self, attempt: Attempt) -> None:
        job, lease = attempt.job, attempt.lease
        log.info("job runs", extra={"job_id": job.id, "attempt": lease.attempt})
        batcher = LogBatcher(job.id, lease.attempt, self._events.log)
        try:
            failure = self._run_steps(attempt, self._chain(attempt, batcher))
        finally:
            batcher.close()  # before the state: who reads Succeeded finds a complete log
        if failure is None:
            self.end(job, lease, JobState.SUCCEEDED, "", attempt.steps)
            return
        self._raise_if_it_may_try_again(attempt, failure)
        self.end(job, lease, JobState.FAILED, failure.reason, attempt.steps)

    def _raise_if_it_may_try_again(self, attempt: Attempt, failure: _Failure) -> None:
        retry, tries = attempt.job.retry, attempt.lease.record.tries
        if tries < retry.max and not ends_of(failure.result).isdisjoint(retry.on):
            raise Again(presentable(failure.reason, attempt.job), retry.pause(tries + 1))

    def started(self, lease: Lease) -> None:
        """Say that the attempt runs. Raises AttemptLost."""
        self._store.confirm(lease)
        self._events.changed(lease.record)

    def handed_back(self, lease: Lease, why: HandBack, reason: str = "") -> None:
        """The attempt is over, the job is not."""
        self._events.changed(self._store.give_back(lease, why, reason))

    def end(
        self,
        job: Job,
        lease: Lease,
        state: JobState,
        reason: str,
        steps: list[StepRecord] | None = None,
    ) -> None:
        """End the job. Without `steps` they stay as they were last told of."""
        reason = presentable(reason, job)
        told = lease.record.steps if steps is None else steps
        self._events.ended(self._store.finish(lease, state, reason, told))
        log.info("job ended", extra={"job_id": job.id, "state": str(state)})

    def ended(self, record: JobRecord) -> None:
        """Tell again how the job ended: whoever ended it may have died before it could."""
        self._events.ended(record)

    def _chain(self, attempt: Attempt, batcher: LogBatcher) -> StepCall:
        limit = attempt.job.timeout_seconds
        deadline = Deadline(monotonic() + limit if limit else None)
        return chain(
            [
                StepLogs(batcher, limit=self._log_limit),
                Masking(secrets_of(attempt.job)),
                Retrying(attempt.wait, deadline.left),
                Refusals(),
                deadline,
                Preparing(self._pull_timeout, deadline.extend),
                Asking(partial(self._store.confirm, attempt.lease)),
            ],
            run_in_workspace,
        )

    def _run_steps(self, attempt: Attempt, call: StepCall) -> _Failure | None:
        """What made the job fail."""
        job = attempt.job
        for index, step in enumerate(job.steps):
            self._begin(attempt, index)
            result = call(
                StepContext(
                    job=job,
                    step=step,
                    index=index,
                    workspace=attempt.workspace,
                    sink=NullSink(),
                )
            )
            attempt.steps[index] = _ended(attempt.steps[index], job, result)
            if result.limit is TimeLimit.JOB:
                return _Failure(result, f"job timed out after {job.timeout_seconds} seconds")
            if not result.succeeded and not step.continue_on_error:
                return _Failure(result, why(result))
        return None

    def _begin(self, attempt: Attempt, index: int) -> None:
        attempt.steps[index] = replace(
            attempt.steps[index], state=StepState.RUNNING, started_at=utc_now()
        )
        self._store.progress(attempt.lease, attempt.steps)


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


def _ended(running: StepRecord, job: Job, result: StepResult) -> StepRecord:
    return replace(
        running,
        state=StepState.SUCCEEDED if result.succeeded else StepState.FAILED,
        exit_code=result.exit_code,
        timed_out=result.timed_out,
        oom_killed=result.oom_killed,
        reason=presentable(result.reason, job),
        tries=result.tries,
        finished_at=utc_now(),
    )
