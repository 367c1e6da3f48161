"""Reads back what jobs have told: everything at once, or line by line as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from brokers import subjects
from brokers.events import Events
from brokers.job_store import JobRecord, JobStore
from brokers.nats.connection import REQUEST_SECONDS, NatsConnection

READ_BATCH = 500
"""Messages of one read."""


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

    def read(self, job_id: str) -> list[LogMessage]:
        """All batches of the job's latest attempt, in order."""
        self._events.declare()
        messages = self._connection.run(self._read_all(job_id))
        latest = max((message.attempt for message in messages), default=0)
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
        request = {"seq": start, "batch": READ_BATCH, "next_by_subj": subjects.logs(job_id)}
        await client.publish(
            f"$JS.API.DIRECT.GET.{subjects.LOG_STREAM}", json.dumps(request).encode(), reply=inbox
        )
        messages: list[LogMessage] = []
        try:
            while True:
                message = await subscription.next_msg(timeout=REQUEST_SECONDS)
                headers = message.headers or {}
                if "Status" in headers:
                    return messages, int(headers.get("Nats-Num-Pending", 0))
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
        record = self._store.get(job_id)
        if record is None:
            raise LookupError(job_id)
        tap = _Tap(self._connection, self._store.subject(job_id), job_id, after)
        self._connection.run(tap.open(), REQUEST_SECONDS)
        try:
            yield from self._flow(job_id, tap, idle)
        finally:
            self._connection.spawn(tap.close())

    def _flow(self, job_id: str, tap: _Tap, idle: float) -> Iterator[LogMessage | JobRecord | None]:
        record = self._store.get(job_id)
        final = record if record is not None and record.state.final else None
        last = self._last_sequence(job_id) if final else 0
        if record is not None and final is None:
            yield record
        seen = tap.after
        while final is None or seen < last:
            item = tap.next(idle)
            if isinstance(item, JobRecord) and item.state.final:
                final, last = item, self._last_sequence(job_id)
                continue
            if isinstance(item, LogMessage):
                seen = item.sequence
            yield item
        yield final

    def _last_sequence(self, job_id: str) -> int:
        async def last() -> int:
            try:
                message = await self._connection.jetstream.get_last_msg(
                    subjects.LOG_STREAM, subjects.logs(job_id), direct=True
                )
            except nats.js.errors.NotFoundError:
                return 0
            return int(message.seq or 0)

        return self._connection.patiently(last, REQUEST_SECONDS)


class _Tap:
    """Brings one job's log and record changes from the event loop to a thread."""

    def __init__(
        self, connection: NatsConnection, record_subject: str, job_id: str, after: int
    ) -> None:
        self._connection = connection
        self._record_subject = record_subject
        self._job_id = job_id
        self.after = after
        self._items: SimpleQueue[LogMessage | JobRecord] = SimpleQueue()
        self._subscriptions: list[Any] = []

    async def open(self) -> None:
        client = self._connection.client
        self._subscriptions.append(await client.subscribe(self._record_subject, cb=self._on_record))
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.after + 1
        )
        self._subscriptions.append(
            await self._connection.jetstream.subscribe(
                subjects.logs(self._job_id),
                stream=subjects.LOG_STREAM,
                ordered_consumer=True,
                config=config,
                cb=self._on_log,
            )
        )

    async def _on_record(self, message: Msg) -> None:
        if message.data:
            self._items.put(JobRecord.from_dict(json.loads(message.data)))

    async def _on_log(self, message: Msg) -> None:
        sequence = message.metadata.sequence.stream
        self._items.put(_stored(message.data, message.headers or {}, sequence))

    def next(self, timeout: float) -> LogMessage | JobRecord | None:
        """None after `timeout` seconds of silence."""
        try:
            return self._items.get(timeout=timeout)
        except Empty:
            return None

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()


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
