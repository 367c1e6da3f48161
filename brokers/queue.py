"""Where the API puts jobs and the worker finds them: one queue, three lanes, one actor's name.

A submission is announced, then queued, then recorded: what has a record is on the queue. Whoever
brings a job to its end tells so before the job's message goes: as long as there is a message,
somebody will tell again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dramatiq import Message
from dramatiq.errors import BrokerConnectionError, BrokerError

from brokers import subjects
from brokers.callbacks.queue import open_callbacks
from brokers.callbacks.targets import CallbackTargets
from brokers.combining import Combining
from brokers.control import Control
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.nats import NatsBroker
from brokers.nats.errors import MessageTooLarge, QueueFull
from brokers.opening import open_broker
from brokers.payloads import FIRST, PayloadStore, shown, whole
from brokers.records import JobRecord
from brokers.settings import NatsSettings
from executors.errors import JobQueueFull, JobTooLarge, QueueError, QueueUnavailable
from executors.job import Job, Priority

PUT_PATIENCE = 5.0
"""Seconds that a submission waits for NATS to come back."""
MAX_CARRIED = 512 * 1024
"""Bytes of a job that its message carries; a larger one is stored beside it."""

_REFUSALS: dict[type[QueueError], str] = {
    JobTooLarge: "the job does not fit into one message",
    JobQueueFull: "the queue is full",
}

MAX_COMBINED = 64 * 1024
"""Bytes of a job that may share the way to NATS, and its end, with others that come at once."""

Redact = Callable[[Job], dict[str, Any]]
"""A job as `Job.to_dict` has it, without its secrets."""

log = logging.getLogger(__name__)


def message_of(job: Job) -> Message[None]:
    """The message that asks a worker to run the job. It carries the whole job."""
    return _message(job, job.to_dict(), job.id)


def _message(job: Job, body: Mapping[str, Any], message_id: str) -> Message[None]:
    return Message(
        queue_name=subjects.QUEUE,
        actor_name=subjects.ACTOR,
        args=(body,),
        kwargs={},
        options={"broker_priority": Priority.of(job.priority) - Priority.LOW},
        message_id=message_id,
    )


def job_in(body: Mapping[str, Any], payloads: PayloadStore) -> Job | None:
    """The job that a message asks for; None: what it had stored is gone, so the job is over.

    Raises KeyError, TypeError, ValueError when it is no job.
    """
    try_ = body.get("stored")
    if not try_:
        return Job.from_dict(body)
    stored = payloads.get(whole(body["id"], str(try_)))
    return None if stored is None else Job.from_dict(json.loads(stored))


class JobQueue:
    """Accepts jobs: what `put` has returned for is stored."""

    def __init__(
        self,
        broker: NatsBroker,
        store: JobStore,
        events: Events,
        payloads: PayloadStore,
        redact: Redact,
        targets: CallbackTargets | None = None,
    ) -> None:
        """`targets` keeps the callback URLs of jobs; None: nobody is called."""
        self.broker = broker
        self.store = store
        self._events = events
        self._payloads = payloads
        self._redact = redact
        self._targets = targets
        self._control = Control(broker.connection)
        self._put_combined = Combining(self.put_many)
        self._closed = False

    # Submitting

    def put(self, job: Job) -> JobRecord:
        """Announce the job, put it on the queue and record it. Again does no harm, for a minute.

        Raises JobTooLarge, JobQueueFull, QueueUnavailable; then nobody will run the job, also when
        NATS has the message and only its answer was lost: the record says Failed as soon as NATS is
        back.
        """
        alone = _size_at_most(job) > MAX_COMBINED or job.callback_url or job.status_callback_url
        return self.put_many([job])[0] if alone else self._put_combined(job)

    def put_many(self, jobs: Sequence[Job]) -> list[JobRecord]:
        """`put` for many, in far less time: all of them are accepted, or none."""
        with _told_to_the_client():
            self.broker.check_length(subjects.QUEUE)
        visible = [self._redact(job) for job in jobs]
        records = [
            JobRecord.of(job, redacted["metadata"])
            for job, redacted in zip(jobs, visible, strict=True)
        ]
        try:
            with _told_to_the_client():
                self._note_targets(jobs)
                self._events.declare()
                self._events.tell_listeners(records)
                sequences = self._enqueue(jobs, records)
        except QueueError as error:
            self._refuse(records, error)
            raise
        queued = [
            record.with_message(sequence)
            for record, sequence in zip(records, sequences, strict=True)
        ]
        self._record(queued, visible)
        return queued

    def _note_targets(self, jobs: Iterable[Job]) -> None:
        """Who wants to be called, before there is anything to tell."""
        for job in jobs:
            if self._targets and (job.callback_url or job.status_callback_url):
                self._targets.put(job.id, job.callback_url, job.status_callback_url)

    def _enqueue(
        self, jobs: Iterable[Job], records: Sequence[JobRecord], try_: str = FIRST
    ) -> list[int]:
        """The numbers of the messages; before them it is announced that the jobs are queued."""
        suffix = "" if try_ == FIRST else f" {try_}"
        messages = [_message(job, self._body(job, try_), job.id + suffix) for job in jobs]
        return self.broker.store(messages, after=list(map(self._events.status, records)))

    def _body(self, job: Job, try_: str) -> Mapping[str, Any]:
        """The job itself, or where it is stored."""
        body = job.to_dict()
        if _size_at_most(job) <= MAX_CARRIED:
            return body
        encoded = _json(body)
        if len(encoded) <= MAX_CARRIED:
            return body
        self._payloads.put(whole(job.id, try_), encoded)
        return {"id": job.id, "stored": try_}

    def _record(self, records: Sequence[JobRecord], visible: Sequence[Mapping[str, Any]]) -> None:
        """The jobs are on the queue: nothing that fails here makes them undone."""
        try:
            self.store.create_many(
                records,
                [
                    piece
                    for job in visible
                    for piece in self._payloads.pieces(shown(job["id"]), _json(job))
                ],
            )
        except BrokerError:
            log.warning("jobs are queued, but not recorded before they run", exc_info=True)

    def _refuse(self, records: Sequence[JobRecord], error: QueueError) -> None:
        """Nobody may run what has been refused; that must not keep the client waiting."""
        self._events.doubt()
        reason = _REFUSALS.get(type(error), "the job could not be put on the queue")
        threading.Thread(target=self._withdraw, args=(records, reason), daemon=True).start()

    def _withdraw(self, records: Sequence[JobRecord], reason: str) -> None:
        for record in records:
            while not self._closed:
                try:
                    self._tell_end(self.store.withdraw(record, reason))
                    break
                except BrokerConnectionError:
                    log.info("a job waits to be withdrawn", extra={"job_id": record.id})

    # Stopping and retrying

    def stop(self, job_id: str, reason: str = "") -> JobRecord | None:
        """Nobody is to run the job any more, and who runs it kills it; None: it was over, or is
        not known. Raises QueueUnavailable."""
        with _told_to_the_client():
            record = self.store.stop(job_id, reason)
            self._control.hint(job_id)
            self._tell_end(record)
        return record

    def _tell_end(self, record: JobRecord | None) -> None:
        """Of a job that no worker ends. Its message, with its secrets, goes last.

        One that runs is told of as well, but who runs it has the last word, and the message; if
        that is gone, nobody may come to speak.
        """
        if record is None:
            return
        runs = bool(record.started_at) and self._may_have_message(record)
        self._events.ended(record, log_complete=not runs)
        self._payloads.forget(record)
        if record.queue_seq and not runs:
            self.broker.remove(record.queue_seq)

    def _may_have_message(self, record: JobRecord) -> bool:
        return record.queue_seq == 0 or self.broker.contains(record.queue_seq)

    def without_secrets(self, job: Job) -> dict[str, Any]:
        """What may be shown of it, in plain JSON types."""
        visible: dict[str, Any] = json.loads(_json(self._redact(job)))
        return visible

    def shown(self, job_id: str) -> dict[str, Any] | None:
        """The job as it was submitted, without its secrets; None: it is not known (any more)."""
        with _told_to_the_client():
            data = self._payloads.get(shown(job_id))
        return None if data is None else json.loads(data)

    def retry(self, job: Job) -> JobRecord | None:
        """Another attempt of a job that is over, with the id that it had; None: it is not over, or
        not known. Raises JobTooLarge, QueueUnavailable; then the record says Failed again as soon
        as NATS is back."""
        with _told_to_the_client():
            record = self.store.retry(job.id)
        if record is None:
            return None
        try:
            with _told_to_the_client():
                return self._put_again(job, record)
        except QueueError as error:
            self._refuse([record], error)
            raise

    def _put_again(self, job: Job, record: JobRecord) -> JobRecord:
        self._note_targets([job])
        self._events.declare()
        self._events.tell_listeners([record])
        [sequence] = self._enqueue([job], [record], record.queued_at)
        self.store.queued(record, sequence)
        return record.with_message(sequence)

    # Looking

    @property
    def connected(self) -> bool:
        """Whether NATS answers at the moment."""
        return self.broker.connection.connected

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        self._events.close()
        self.broker.close()
        self.broker.connection.close()


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _size_at_most(job: Job) -> int:
    """Bytes that the job's JSON cannot exceed by much: the cheapest look at it."""
    texts = [job.name, *job.metadata, *job.metadata.values()]
    for step in job.steps:
        texts += [step.script, step.image, step.name, *step.metadata, *step.metadata.values()]
    return 6 * sum(map(len, texts)) + 1024 * (1 + len(job.steps))


@contextmanager
def _told_to_the_client() -> Iterator[None]:
    """The broker's errors as those of `executors.errors`."""
    try:
        yield
    except MessageTooLarge as error:
        raise JobTooLarge(str(error)) from error
    except QueueFull as error:
        raise JobQueueFull(str(error)) from error
    except BrokerError as error:
        raise QueueUnavailable(str(error)) from error


def open_queue(settings: NatsSettings, redact: Redact) -> JobQueue:
    """A queue with a connection of its own, opened by the first job."""
    connection = settings.connect()
    callbacks = open_callbacks(settings, connection)
    return JobQueue(
        open_broker(
            settings,
            connection,
            middleware=[],
            max_queue_length=settings.max_queued_jobs or None,
        ),
        JobStore(connection, max_age=settings.record_max_age, patience=PUT_PATIENCE),
        Events(
            connection,
            max_age=settings.log_max_age,
            patience=PUT_PATIENCE,
            listeners=[callbacks],
        ),
        PayloadStore(connection, max_age=settings.record_max_age, patience=PUT_PATIENCE),
        redact,
        callbacks.targets,
    )
