"""Reads back what jobs have told: everything at once, or line by line as it comes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from brokers import subjects
from brokers.events import Events
from brokers.feed import Feed, Source
from brokers.job_store import JobStore
from brokers.nats.connection import REQUEST_SECONDS, NatsConnection
from brokers.records import JobRecord

READ_BATCH = 500
"""Messages of one read, at most."""
READ_BYTES = 16 * 1024 * 1024
PATIENCE = 5.0
"""Seconds that a reader waits for NATS to come back."""


_END_OF_BATCH = "204"
_NOTHING_THERE = "404"


@dataclass(frozen=True, kw_only=True, slots=True)
class LogMessage:
    """One stored batch of lines."""

    sequence: int
    """Position in the log stream: where a reader goes on after this message."""
    attempt: int
    step: int
    """Index of the step, from 0."""
    body: dict[str, Any]
    """The seed's `Log`: job_id, container_id, logs."""


class LogReader:
    """Everything is read from the streams, so a restart forgets nothing."""

    def __init__(self, connection: NatsConnection, store: JobStore, events: Events) -> None:
        self._connection = connection
        self._store = store
        self._events = events

    def read(self, job_id: str, *, up_to: float = math.inf) -> list[LogMessage]:
        """All batches, in order, of the job's latest attempt that has any and is not after the
        attempt `up_to`."""
        self._events.declare()
        messages = self._connection.patiently(lambda: self._read_all(job_id), PATIENCE)
        latest = max((each.attempt for each in messages if each.attempt <= up_to), default=0)
        return [message for message in messages if message.attempt == latest]

    async def _read_all(self, job_id: str) -> list[LogMessage]:
        messages: list[LogMessage] = []
        start, pending = 1, 1
        while pending:
            batch, pending = await self._read_some(job_id, start)
            messages.extend(batch)
            start = messages[-1].sequence + 1 if messages else start
        return messages

    async def _read_some(self, job_id: str, start: int) -> tuple[list[LogMessage], int]:
        """One direct read of up to READ_BATCH messages, and how many there are after them."""
        client = self._connection.client
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        request = {
            "seq": start,
            "batch": READ_BATCH,
            "max_bytes": READ_BYTES,
            "next_by_subj": subjects.logs(job_id),
        }
        await client.publish(
            f"$JS.API.DIRECT.GET.{subjects.LOG_STREAM}", json.dumps(request).encode(), reply=inbox
        )
        messages: list[LogMessage] = []
        try:
            while True:
                message = await subscription.next_msg(timeout=REQUEST_SECONDS)
                headers = message.headers or {}
                if status := headers.get("Status"):
                    return messages, _pending(status, headers)
                messages.append(_stored(message.data, headers, int(headers["Nats-Sequence"])))
        finally:
            await subscription.unsubscribe()

    def follow(
        self, job_id: str, *, after: int = 0, idle: float = 15.0
    ) -> Iterator[LogMessage | JobRecord | None]:
        """The job's log from the beginning (or after the sequence `after`), live to its end.

        Between messages comes the job's record whenever it changes, and None after `idle` seconds
        of silence. The last item is the record in a final state. Raises LookupError for a job that
        is not known.
        """
        self._events.declare()
        if self._store.get(job_id) is None:
            raise LookupError(job_id)
        logs = Source(stream=subjects.LOG_STREAM, subject=subjects.logs(job_id), after=after)
        records = Source(stream=self._store.stream, subject=self._store.subject(job_id))
        with Feed(self._connection, (logs, records)) as feed:
            yield from self._flow(job_id, feed, records, after, idle)

    def _flow(
        self, job_id: str, feed: Feed, records: Source, seen: int, idle: float
    ) -> Iterator[LogMessage | JobRecord | None]:
        final, last = None, 0
        while final is None or seen < last:
            items = feed.next(idle)
            if not items:
                yield None
            for source, message in items:
                if source is not records:
                    stored = _of_consumer(message)
                    seen = stored.sequence
                    yield stored
                elif (record := _record(message)) and record.state.final:
                    final, last = record, self._last_sequence(job_id)
                else:
                    yield record
        yield final

    def _last_sequence(self, job_id: str) -> int:
        """Of the job's log: what is there when the job is over is all there will be."""

        async def last() -> int:
            try:
                message = await self._connection.jetstream.get_last_msg(
                    subjects.LOG_STREAM, subjects.logs(job_id), direct=True
                )
            except nats.js.errors.NotFoundError:
                return 0
            return int(message.seq or 0)

        return self._connection.patiently(last, PATIENCE)


def _record(message: Msg) -> JobRecord | None:
    """None: it was removed."""
    return JobRecord.from_dict(json.loads(message.data)) if message.data else None


def _of_consumer(message: Msg) -> LogMessage:
    return _stored(message.data, message.headers or {}, message.metadata.sequence.stream)


def _pending(status: str, headers: dict[str, str]) -> int:
    """How many messages there are after a read that the server ended with this status."""
    if status == _END_OF_BATCH:
        return int(headers.get("Nats-Num-Pending", 0))
    if status == _NOTHING_THERE:
        return 0
    raise nats.errors.NoRespondersError


def _stored(data: bytes, headers: dict[str, str], sequence: int) -> LogMessage:
    return LogMessage(
        sequence=sequence,
        attempt=int(headers.get(subjects.ATTEMPT_HEADER, 1)),
        step=int(headers.get(subjects.STEP_HEADER, 0)),
        body=json.loads(data),
    )


def as_slots(messages: list[LogMessage]) -> list[dict[str, Any]]:
    """One `Log` for each step, in order, with all of its lines: what the seed's clients read."""
    slots: dict[int, dict[str, Any]] = {}
    for message in messages:
        slot = slots.setdefault(message.step, {**message.body, "logs": []})
        slot["logs"].extend(message.body.get("logs") or [])
    return [slots[step] for step in sorted(slots)]
