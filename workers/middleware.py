"""Makes the workspace before the actor runs, and removes it after."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import SkipMessage

from brokers.job_store import JobRecord, JobStore
from brokers.nats.messages import NatsMessage
from executors.base import Executor
from executors.errors import AttemptLost, ExecutorError
from executors.job import Job, JobState
from workers.runner import Attempt, Runner

RETRY_SECONDS = 2.0
"""Before the second attempt after the machine failed; doubled with each further one."""
MAX_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Visit:
    """One message in one worker thread."""

    job: Job | None = None
    record: JobRecord | None = None
    attempt: Attempt | None = None
    error: Exception | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)


class ExecutorMiddleware(Middleware):
    """Claims the job of each message and opens its workspace; afterwards removes it.

    The actor asks `attempt()` for what it is to run. When the machine failed, the message stays on
    the queue for a later attempt, until the job was tried `max_attempts` times; the same bound
    holds for jobs whose workers were lost.
    """

    def __init__(
        self, executor: Executor, store: JobStore, runner: Runner, *, worker: str, max_attempts: int
    ) -> None:
        self._executor = executor
        self._store = store
        self._runner = runner
        self._worker = worker
        self._max_attempts = max_attempts
        self._here = threading.local()

    def attempt(self) -> Attempt:
        """What the calling worker thread is to run. Raises what kept the workspace from opening."""
        visit: _Visit = self._here.visit
        if visit.error is not None:
            raise visit.error
        assert visit.attempt is not None
        return visit.attempt

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Skips jobs that are over, and ends those that were tried too often."""
        self._here.visit = visit = _Visit()
        try:
            self._arrive(message, visit)
        except SkipMessage:
            raise
        except Exception as error:  # Dramatiq would log it and run the actor all the same
            visit.error = error

    def _arrive(self, message: MessageProxy, visit: _Visit) -> None:
        visit.job = job = _job_of(message)
        record = self._store.claim(job, self._worker)
        if record is None:
            self._skip_what_is_over(job)
        visit.record = record
        if record.attempt > self._max_attempts:
            self._give_up(message, job, record)
        self._runner.started(record)
        workspace = visit.cleanup.enter_context(self._executor.open(job, record.attempt))
        visit.attempt = Attempt(job=job, record=record, workspace=workspace)

    def _skip_what_is_over(self, job: Job) -> NoReturn:
        self._reap(job.id)
        if record := self._store.get(job.id):
            self._runner.ended(record)
        raise SkipMessage(f"job {job.id} is over")

    def _give_up(self, message: MessageProxy, job: Job, record: JobRecord) -> NoReturn:
        self._reap(job.id)
        reason = (
            f"job was delivered {record.attempt - 1} times without completing "
            f"(max_deliver={self._max_attempts}); giving up"
        )
        self._runner.finish(job, record, JobState.FAILED, reason, [])
        message.fail()
        raise SkipMessage(reason)

    def _reap(self, job_id: str) -> None:
        try:
            self._executor.reap(job_id)
        except ExecutorError:
            log.warning("leftovers not removed", extra={"job_id": job_id}, exc_info=True)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Removes the workspace, and decides what becomes of a job that has no outcome."""
        assert isinstance(message, NatsMessage)
        visit: _Visit = self._here.visit
        self._here.visit = None
        if exception is not None:
            delay = min(RETRY_SECONDS * 2 ** (message.deliveries - 1), MAX_RETRY_SECONDS)
            message.retry_in(delay)  # whatever happens below, the job is not lost
        try:
            visit.cleanup.close()
        except Exception:
            log.warning("workspace not removed", extra=_fields(visit), exc_info=True)
        if exception is not None:
            self._judge(message, visit, exception)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Nothing was opened for a message that is skipped."""
        self._here.visit = None

    def _judge(self, message: NatsMessage, visit: _Visit, error: BaseException) -> None:
        """An exception in here leaves the job to a later attempt."""
        if visit.job is None or visit.record is None:
            return
        try:
            if isinstance(error, AttemptLost):
                raise error
            if visit.record.attempt < self._max_attempts:
                self._store.give_back(visit.record, counted=True)
                return
            reason = f"the job could not be run: {error} (attempt {visit.record.attempt})"
            steps = visit.attempt.steps if visit.attempt else []
            self._runner.finish(visit.job, visit.record, JobState.FAILED, reason, steps)
            message.verdict = b"+ACK"
        except AttemptLost:
            log.info("another attempt has taken over", extra=_fields(visit))
            message.leave()


def _job_of(message: MessageProxy) -> Job:
    """Raises SkipMessage, and marks a message as failed, that does not carry a job."""
    try:
        return Job.from_dict(message.args[0])
    except Exception as error:
        message.fail()
        raise SkipMessage(f"the message carries no job: {type(error).__name__}") from error


def _fields(visit: _Visit) -> dict[str, str]:
    return {"job_id": visit.job.id if visit.job else ""}
