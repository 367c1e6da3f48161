"""Waiting for a job's record to change: woken by the stream, never by asking again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic

from brokers.feed import Feed, Source
from brokers.job_store import JobStore
from brokers.nats.connection import NatsConnection
from brokers.records import JobRecord


class RecordWatch:
    """For any number of threads; each waiting one costs the server a consumer."""

    def __init__(self, connection: NatsConnection, store: JobStore) -> None:
        self._connection = connection
        self._store = store

    def follow(
        self, job_id: str, *, after: int | None = None, idle: float = 15.0
    ) -> Iterator[tuple[int, JobRecord] | None]:
        """Each change behind the revision `after`, with its revision, until the job is over.

        `after` None: the record as it is, then its changes. None comes after `idle` seconds of
        silence. A record that is removed meanwhile ends it, too.
        """
        source = Source(stream=self._store.stream, subject=self._store.subject(job_id), after=after)
        with Feed(self._connection, (source,)) as feed:
            while True:
                messages = feed.next(idle)
                if not messages:
                    yield None
                for _, message in messages:
                    if not message.data:
                        return
                    record = JobRecord.from_dict(json.loads(message.data))
                    yield message.metadata.sequence.stream, record
                    if record.state.final:
                        return

    def until_final(self, job_id: str, timeout: float) -> JobRecord | None:
        """The job's record as soon as it is final; None after `timeout` seconds, or without one."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            for item in self.follow(job_id, idle=left):
                if item is not None and item[1].state.final:
                    return item[1]
                if monotonic() >= deadline:
                    break
        return None
