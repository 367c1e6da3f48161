"""Where the API puts jobs and the worker finds them: one queue, three lanes, one actor's name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq import Message
from dramatiq.errors import BrokerConnectionError, BrokerError

from brokers import subjects
from brokers.events import Events
from brokers.job_store import JobRecord, JobStore
from brokers.nats import NatsBroker
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import MessageTooLarge, QueueFull
from brokers.settings import NatsSettings
from executors.errors import JobQueueFull, JobTooLarge, QueueError, QueueUnavailable
from executors.job import Job, JobState, Priority

PUT_PATIENCE = 5.0
"""Seconds that a submission waits for NATS to come back."""

log = logging.getLogger(__name__)


def open_broker(
    settings: NatsSettings, connection: NatsConnection, **options: object
) -> NatsBroker:
    """The queue's broker; its lanes are the three priorities, 0 the lowest."""
    return NatsBroker(
        connection=connection,
        namespace=subjects.QUEUE_NAMESPACE,
        ack_wait=settings.ack_wait,
        max_priority=len(Priority) - 1,
        **options,  # type: ignore[arg-type]
    )


def message_of(job: Job) -> Message[None]:
    """The message that asks a worker to run the job. It carries the whole job."""
    return Message(
        queue_name=subjects.QUEUE,
        actor_name=subjects.ACTOR,
        args=(job.to_dict(),),
        kwargs={},
        options={"broker_priority": Priority.of(job.priority) - Priority.LOW},
    )


class JobQueue:
    """Accepts jobs: what `put` has returned for is stored."""

    def __init__(self, broker: NatsBroker, store: JobStore, events: Events) -> None:
        self._broker = broker
        self._store = store
        self._events = events
        self._closed = False

    def put(self, job: Job) -> None:
        """Record the job, announce it and put it on the queue.

        Raises JobTooLarge, JobQueueFull, QueueUnavailable; then nobody will run the job, also when
        NATS has the message and only its answer was lost: the record says Failed as soon as NATS is
        back.
        """
        with _told_to_the_client():
            self._broker.check_length(subjects.QUEUE)
            self._store.create(JobRecord.of(job))
        try:
            with _told_to_the_client():
                self._events.status(job.id, JobState.QUEUED)
                self._broker.enqueue(message_of(job))
        except JobTooLarge:
            self._withdraw(job.id, "the job does not fit into one message")
            raise
        except JobQueueFull:
            self._withdraw(job.id, "the queue is full")
            raise
        except QueueError:
            reason = "the job could not be put on the queue"
            threading.Thread(target=self._withdraw, args=(job.id, reason), daemon=True).start()
            raise

    def _withdraw(self, job_id: str, reason: str) -> None:
        """The record must not say that the job waits, nor a worker run what has been refused."""
        while not self._closed:
            try:
                record = self._store.withdraw(job_id, reason)
                if record is not None:
                    self._events.ended(record)
                return
            except BrokerConnectionError:
                log.info("a job waits to be withdrawn", extra={"job_id": job_id})

    @property
    def connected(self) -> bool:
        """Whether NATS answers at the moment."""
        return self._broker.connection.connected

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        self._broker.close()
        self._broker.connection.close()


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


def open_queue(settings: NatsSettings) -> JobQueue:
    """A queue with a connection of its own, opened by the first job."""
    connection = settings.connect()
    return JobQueue(
        open_broker(
            settings,
            connection,
            middleware=[],
            max_queue_length=settings.max_queued_jobs or None,
        ),
        JobStore(connection, max_age=settings.record_max_age, patience=PUT_PATIENCE),
        Events(connection, max_age=settings.log_max_age, patience=PUT_PATIENCE),
    )
