"""Makes the workspace before the actor runs, and removes it after."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import SkipMessage

from brokers.job_store import JobRecord, JobStore
from brokers.queue import message_of
from executors.base import Executor
from executors.errors import AttemptLost, HadesError, InfrastructureError
from executors.job import Job, JobState
from workers.runner import Attempt, Runner

RETRY_SECONDS = 2.0
"""Before the second attempt after the machine failed; doubled with each further one."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Visit:
    """One message in one worker thread."""

    job: Job
    record: JobRecord
    attempt: Attempt | None = None
    error: Exception | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)


class ExecutorMiddleware(Middleware):
    """Claims the job of each message and opens its workspace; afterwards removes it.

    The actor asks `attempt()` for what it is to run. When the machine failed, the job goes back to
    the queue with a delay, until it was tried `max_attempts` times; the same bound holds for jobs
    whose workers were lost.
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
        self._here.visit = None
        job = Job.from_dict(message.args[0])
        record = self._store.claim(job, self._worker)
        if record is None:
            self._executor.reap(job.id)
            raise SkipMessage(f"job {job.id} is over")
        self._here.visit = visit = _Visit(job=job, record=record)
        if record.attempt > self._max_attempts:
            self._give_up(message, visit)
        self._runner.started(record)
        try:
            workspace = visit.cleanup.enter_context(self._executor.open(job, record.attempt))
            visit.attempt = Attempt(job=job, record=record, workspace=workspace)
        except HadesError as error:
            visit.error = error

    def _give_up(self, message: MessageProxy, visit: _Visit) -> None:
        self._executor.reap(visit.job.id)
        reason = (
            f"job was delivered {visit.record.attempt - 1} times without completing "
            f"(max_deliver={self._max_attempts}); giving up"
        )
        self._end(visit, reason)
        message.fail()
        raise SkipMessage(reason)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Removes the workspace, and decides what becomes of a job that has no outcome."""
        visit: _Visit | None = getattr(self._here, "visit", None)
        if visit is None:
            return
        try:
            visit.cleanup.close()
        except InfrastructureError:
            log.warning("workspace not removed", extra={"job_id": visit.job.id}, exc_info=True)
        if exception is not None and not isinstance(exception, AttemptLost):
            self._try_again(broker, visit, exception)
        self._here.visit = None

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Nothing was opened for a message that is skipped."""
        self._here.visit = None

    def _try_again(self, broker: Broker, visit: _Visit, error: BaseException) -> None:
        record = visit.record
        try:
            if record.attempt >= self._max_attempts:
                self._end(visit, f"the job could not be run: {error} (attempt {record.attempt})")
                return
            delay = RETRY_SECONDS * 2 ** (record.attempt - 1)
            self._store.give_back(record, counted=True)
            broker.enqueue(message_of(visit.job), delay=int(delay * 1000))
        except AttemptLost:
            log.info("another attempt has taken over", extra={"job_id": visit.job.id})

    def _end(self, visit: _Visit, reason: str) -> None:
        steps = visit.attempt.steps if visit.attempt else []
        try:
            self._runner.finish(visit.job, visit.record, JobState.FAILED, reason, steps)
        except AttemptLost:
            log.info("another attempt has taken over", extra={"job_id": visit.job.id})
