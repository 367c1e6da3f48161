"""Puts the collaborators of `/v1` together, over the queue's connection."""

from __future__ import annotations

from app.index.database import index_file
from app.index.reader import JobIndex
from app.index.writer import IndexWriter
from app.settings import ApiSettings
from app.v1.services import Services, Waiters
from brokers import subjects
from brokers.events import Events
from brokers.idempotency import IdempotencyKeys
from brokers.log_reader import LogReader
from brokers.queue import PUT_PATIENCE, JobQueue
from brokers.record_feed import RecordFeed
from brokers.record_watch import RecordWatch
from brokers.settings import NatsSettings
from brokers.worker_registry import WorkerRegistry


def open_services(
    queue: JobQueue, nats: NatsSettings, settings: ApiSettings
) -> tuple[Services, IndexWriter]:
    """The writer of the index is still to be started. Raises IndexUnusable."""
    connection, store = queue.broker.connection, queue.store
    feed = RecordFeed(connection, store.stream)
    path = index_file(settings.index_dir, nats.url)
    events = Events(connection, max_age=nats.log_max_age, patience=PUT_PATIENCE)
    queue.broker.declare_queue(subjects.QUEUE)
    services = Services(
        queue=queue,
        records=store,
        index=JobIndex(path, feed),
        keys=IdempotencyKeys(connection, patience=PUT_PATIENCE),
        watch=RecordWatch(connection, store),
        logs=LogReader(connection, store, events),
        lanes=queue.broker,
        workers=WorkerRegistry(connection),
        waiters=Waiters(settings.waiters),
    )
    return services, IndexWriter(path, feed)
