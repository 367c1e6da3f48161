"""Makes the workspace before the actor runs, and removes it after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import SkipMessage

from brokers.control import Control
from brokers.job_store import JobStore, Lease
from brokers.nats.messages import NatsMessage, delivery_of
from brokers.payloads import PayloadStore, whole
from brokers.queue import job_in
from brokers.records import JobRecord
from brokers.transitions import HandBack
from executors.base import Executor
from executors.errors import AttemptLost, ExecutorError, ExecutorUnavailable
from executors.job import Job, JobState
from workers.attempts import Attempts, Running, StopCause
from workers.runner import Again, Attempt, Runner

RETRY_SECONDS = 2.0
"""Before the second attempt after the machine failed; doubled with each further one."""
MAX_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Visit:
    """One message in one worker thread."""

    job: Job | None = None
    lease: Lease | None = None
    running: Running | None = None
    attempt: Attempt | None = None
    sequence: int = 0
    """Of the message."""
    stored: str = ""
    """The try under which the job is stored beside the queue; empty: the message carries it."""
    error: Exception | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)


class StillRunning(Exception):
    """Another worker, or another thread of this one, is alive and runs the job."""


class ExecutorMiddleware(Middleware):
    """Claims the job of each message and opens its workspace; afterwards removes it.

    The actor asks `attempt()` for what it is to run. When the machine failed, the message stays on
    the queue for a later attempt, `max_attempts` times at most; the same bound holds for jobs
    whose workers were lost. What `machine_is_broken` says is to blame is not counted.
    """

    def __init__(
        self,
        executor: Executor,
        store: JobStore,
        payloads: PayloadStore,
        control: Control,
        runner: Runner,
        attempts: Attempts,
        *,
        worker: str,
        max_attempts: int,
        machine_is_broken: Callable[[], bool],
    ) -> None:
        self.attempts = attempts
        self._executor = executor
        self._store = store
        self._payloads = payloads
        self._control = control
        self._runner = runner
        self._worker = worker
        self._max_attempts = max_attempts
        self._machine_is_broken = machine_is_broken
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
        assert isinstance(message, NatsMessage)
        self._here.visit = visit = _Visit()
        try:
            self._arrive(message, visit)
        except SkipMessage:
            visit.cleanup.close()
            raise
        except (StillRunning, AttemptLost) as held:
            visit.cleanup.close()
            message.leave()
            raise SkipMessage(str(held)) from held
        except Exception as error:  # Dramatiq would log it and run the actor all the same
            visit.error = error

    def _arrive(self, message: NatsMessage, visit: _Visit) -> None:
        visit.sequence = delivery_of(message.ack_subject).sequence
        visit.job = job = self._job_of(message, visit)
        lease = self._store.claim(
            job,
            self._worker,
            queue_seq=visit.sequence,
            take_over=self._take_over,
        )
        if lease is None:
            self._skip_what_is_over(job.id, visit)
        visit.lease = lease
        if lease.record.lost >= self._max_attempts:
            self._give_up(job, lease, visit)
        visit.running = running = visit.cleanup.enter_context(self.attempts.running(lease))
        self._runner.started(lease)
        workspace = visit.cleanup.enter_context(self._executor.open(job, lease.attempt))
        running.attach(workspace)
        visit.attempt = Attempt(job=job, lease=lease, workspace=workspace, running=running)

    def _take_over(self, record: JobRecord) -> None:
        """The queue believes that the worker is lost. Raises StillRunning when it is not."""
        mine = record.worker == self._worker
        if mine and self.attempts.holds(record.id, record.attempt):
            raise StillRunning("this worker runs the job")
        if not mine and self._control.holds(record.worker, record.id, record.attempt):
            raise StillRunning("another worker runs the job")

    def _job_of(self, message: NatsMessage, visit: _Visit) -> Job:
        """Raises SkipMessage, and marks a message as failed, that does not carry a job."""
        try:
            body = message.args[0]
            job = job_in(body, self._payloads)
            visit.stored = str(body.get("stored") or "")
            job_id = str(body["id"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            message.fail()
            raise SkipMessage(f"the message carries no job: {type(error).__name__}") from error
        if job is None:
            self._skip_what_is_over(job_id, visit)
        return job

    def _skip_what_is_over(self, job_id: str, visit: _Visit) -> NoReturn:
        record = self._store.get(job_id)
        if record is not None and not record.state.final:
            record = self._give_up_without_payload(record, visit)
        self._reap(job_id)
        if record is not None:
            self._told(record, visit)
        raise SkipMessage(f"job {job_id} is over")

    def _give_up_without_payload(self, record: JobRecord, visit: _Visit) -> JobRecord:
        """Unless the message is one of an earlier try: then it has nothing to say any more."""
        if record.queue_seq != visit.sequence:
            self._forget_payload(record.id, visit)
            raise SkipMessage(f"job {record.id} has another message")
        abandoned = self._store.abandon(record, "its payload is lost")
        if abandoned is None:
            raise StillRunning("something happens to the job")
        return abandoned

    def _give_up(self, job: Job, lease: Lease, visit: _Visit) -> NoReturn:
        self._reap(job.id)
        reason = f"worker lost {lease.record.lost} times"
        self._runner.end(job, lease, JobState.FAILED, reason)
        self._forget_payload(job.id, visit)
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
        error = exception or (visit.attempt.unfinished if visit.attempt else None)
        if error is not None:
            message.retry_in(RETRY_SECONDS)  # whatever happens below, the job is not lost
        try:
            visit.cleanup.close()
        except Exception:
            log.warning("workspace not removed", extra=_fields(visit), exc_info=True)
        if error is not None:
            self._judge(message, visit, error)
        elif visit.job is not None:
            self._forget_payload(visit.job.id, visit)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Nothing was opened for a message that is skipped."""
        self._here.visit = None

    def _judge(self, message: NatsMessage, visit: _Visit, error: BaseException) -> None:
        """An exception in here leaves the job to a later attempt."""
        if visit.job is None or visit.lease is None:
            return
        cause = visit.running.cause if visit.running else None
        try:
            if cause is StopCause.LOST or isinstance(error, AttemptLost):
                self._lost(message, visit)
            elif cause is StopCause.DRAINED or self._is_machines_fault(error):
                self._hand_back(message, visit.lease, HandBack.DRAINED, 0.0)
            elif isinstance(error, Again):
                self._hand_back(message, visit.lease, HandBack.RETRY, error.pause, str(error))
            else:
                self._machine_failed(message, visit, error)
        except AttemptLost:
            self._lost(message, visit)

    def _is_machines_fault(self, error: BaseException) -> bool:
        return isinstance(error, ExecutorUnavailable) and self._machine_is_broken()

    def _lost(self, message: NatsMessage, visit: _Visit) -> None:
        """Somebody else has the job, or it is over."""
        assert visit.job is not None
        log.info("an attempt was lost", extra=_fields(visit))
        record = self._store.get(visit.job.id)
        if record is not None and record.state.final:
            self._told(record, visit)
            message.done()
        else:
            message.leave()

    def _hand_back(
        self, message: NatsMessage, lease: Lease, why: HandBack, pause: float, reason: str = ""
    ) -> None:
        self._runner.handed_back(lease, why, reason)
        message.retry_in(pause)

    def _machine_failed(self, message: NatsMessage, visit: _Visit, error: BaseException) -> None:
        assert visit.job is not None and visit.lease is not None
        errors = visit.lease.record.errors + 1
        if errors < self._max_attempts:
            pause = min(RETRY_SECONDS * 2 ** (errors - 1), MAX_RETRY_SECONDS)
            self._hand_back(message, visit.lease, HandBack.ERROR, pause)
            return
        reason = f"the job could not be run: {error} (attempt {visit.lease.attempt})"
        self._runner.end(visit.job, visit.lease, JobState.FAILED, reason)
        self._forget_payload(visit.job.id, visit)
        message.done()

    def _told(self, record: JobRecord, visit: _Visit) -> None:
        """Tell again how the job ended: whoever ended it may have died before it could."""
        self._runner.ended(record)
        self._forget_payload(record.id, visit)

    def _forget_payload(self, job_id: str, visit: _Visit) -> None:
        """Of a job that is over, before its message goes."""
        if visit.stored:
            self._payloads.delete(whole(job_id, visit.stored))


def _fields(visit: _Visit) -> dict[str, str]:
    return {"job_id": visit.job.id if visit.job else ""}
