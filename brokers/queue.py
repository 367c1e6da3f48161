"""Where the API puts jobs and the worker finds them: one queue, three lanes, one actor's name."""

from __future__ import annotations

import logging

from dramatiq import Message
from dramatiq.errors import BrokerConnectionError, BrokerError

from brokers import subjects
from brokers.events import Events
from brokers.job_store import JobRecord, JobStore
from brokers.nats import NatsBroker
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import MessageTooLarge
from brokers.settings import NatsSettings
from executors.errors import JobTooLarge, QueueUnavailable
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

    def put(self, job: Job) -> None:
        """Record the job, announce it and put it on the queue.

        Raises JobTooLarge, QueueUnavailable; then the job is not on the queue.
        """
        try:
            self._store.create(JobRecord.of(job))
            self._events.status(job.id, JobState.QUEUED)
            self._broker.enqueue(message_of(job))
        except MessageTooLarge as error:
            self._withdraw(job, "the job does not fit into one message")
            raise JobTooLarge(str(error)) from error
        except BrokerConnectionError as error:
            raise QueueUnavailable(str(error)) from error
        except BrokerError as error:
            self._withdraw(job, "the queue refused the job")
            raise QueueUnavailable(str(error)) from error

    def _withdraw(self, job: Job, reason: str) -> None:
        """Nobody will run the job: its record must not say that it waits."""
        claimed = self._store.claim(job, worker="")
        if claimed is not None:
            self._store.finish(claimed, JobState.FAILED, reason, ())
            self._events.status(job.id, JobState.FAILED, reason=reason)

    @property
    def connected(self) -> bool:
        """Whether NATS answers at the moment."""
        return self._broker.connection.connected

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._broker.close()
        self._broker.connection.close()


def open_queue(settings: NatsSettings) -> JobQueue:
    """A queue with a connection of its own, opened by the first job."""
    connection = settings.connect()
    return JobQueue(
        open_broker(settings, connection, middleware=[]),
        JobStore(connection, max_age=settings.record_max_age, patience=PUT_PATIENCE),
        Events(connection, max_age=settings.log_max_age, patience=PUT_PATIENCE),
    )
