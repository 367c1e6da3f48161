"""An index over a bucket of its own, and records for it."""

from __future__ import annotations

import json
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from app.index.query import Filter
from app.index.reader import JobIndex
from app.index.writer import IndexWriter
from brokers.nats.buckets import Bucket
from brokers.nats.connection import NatsConnection
from brokers.record_feed import RecordFeed, Tail

TIME = "2026-01-01T00:00:00.000000Z"
PATIENCE = 20.0


def record(**fields: Any) -> dict[str, Any]:
    """One as the stream has it; no id is given twice."""
    plain = {
        "id": str(uuid.uuid4()),
        "name": "job",
        "priority": "high",
        "submitted_by": "",
        "metadata": {},
        "state": "Queued",
        "reason": "",
        "queued_at": TIME,
        "steps": [],
        "queue_seq": 7,
    }
    return plain | fields


class WatchedFeed(RecordFeed):
    """Notes from where it was read."""

    def __init__(self, connection: NatsConnection, stream: str) -> None:
        super().__init__(connection, stream)
        self.starts: list[int] = []

    def tail(self, after: int) -> AbstractContextManager[Tail]:
        self.starts.append(after)
        return super().tail(after)


class IndexSite:
    """A bucket, and the index that one writer makes of it."""

    def __init__(self, connection: NatsConnection, path: Path, name: str = "") -> None:
        self.connection = connection
        self.bucket = Bucket(connection, name or f"T{uuid.uuid4().hex}")
        self.feed = WatchedFeed(connection, self.bucket.stream)
        self.path = path
        self.index = JobIndex(path, self.feed)
        self.writer: IndexWriter | None = None

    def start(self) -> None:
        self.writer = IndexWriter(self.path, self.feed)
        self.writer.start()

    def stop(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.index.close()
        self.feed.close()

    def put(self, **fields: Any) -> dict[str, Any]:
        stored = record(**fields)
        self.bucket.put(stored["id"], json.dumps(stored).encode())
        return stored

    def found(self, wanted: Filter | None = None) -> list[str]:
        """Ids, newest first, once the index knows of all that is stored."""
        assert self.index.catch_up(PATIENCE) == 0
        return [job_id for ids in self.index.every_id(wanted or Filter(), 3) for job_id in ids]
