"""Looks at the queue, the states and the records past the house's own programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nats.js.errors

from brokers import subjects
from brokers.job_store import JobStore
from brokers.nats.streams import Names
from brokers.opening import open_broker
from brokers.records import JobRecord
from brokers.settings import NatsSettings

SETTLE_MS = 90_000


@dataclass(frozen=True, slots=True)
class Told:
    """One message of the status stream."""

    job_id: str
    state: str
    reason: str


class Witness:
    """A connection of its own to a stack's NATS."""

    def __init__(self, nats_url: str) -> None:
        settings = NatsSettings(url=nats_url)
        self._connection = settings.connect()
        self._broker = open_broker(settings, self._connection, middleware=[])
        self._store = JobStore(self._connection, max_age=settings.record_max_age)
        self._told: list[Told] = []
        self._seen = 0

    def close(self) -> None:
        """The connection is closed."""
        self._broker.close()
        self._connection.close()

    def settle(self) -> None:
        """Until every message is acknowledged: then a worker has also cleaned up after its job."""
        self._broker.join(subjects.QUEUE, timeout=SETTLE_MS)

    def counts(self) -> tuple[int, ...]:
        """How many messages there are and ever were: in the queue's stream, of states, of records.

        Equal counts mean that nothing was stored in between.
        """
        streams = (
            Names(subjects.QUEUE_NAMESPACE).stream,
            subjects.STATUS_STREAM,
            f"KV_{subjects.RECORD_BUCKET}",
        )
        states = [self._connection.run(self._state(stream)) for stream in streams]
        return tuple(number for state in states for number in (state.messages, state.last_seq))

    async def _state(self, stream: str) -> Any:
        return (await self._connection.jetstream.stream_info(stream)).state

    def waiting(self) -> int:
        """Messages of the queue that are not acknowledged yet."""
        return self._broker.get_queue_message_counts(subjects.QUEUE)[0]

    def record(self, job_id: str) -> JobRecord:
        """What is known of the job."""
        record = self._store.get(job_id)
        assert record is not None, f"job {job_id} has no record"
        return record

    def told(self, job_id: str) -> list[Told]:
        """What the status stream holds of the job, in order."""
        self._connection.run(self._read_on())
        return [told for told in self._told if told.job_id == job_id]

    def states(self, job_id: str) -> list[str]:
        """The same, only the states."""
        return [told.state for told in self.told(job_id)]

    def running_order(self) -> list[str]:
        """The ids of all jobs that ever ran, by the time at which they began."""
        self._connection.run(self._read_on())
        return [told.job_id for told in self._told if told.state == "Running"]

    async def _read_on(self) -> None:
        jetstream = self._connection.jetstream
        while True:
            try:
                message = await jetstream.get_msg(
                    subjects.STATUS_STREAM,
                    self._seen + 1,
                    subject=subjects.STATUS_SUBJECTS,
                    next=True,
                )
            except nats.js.errors.NotFoundError:
                return
            self._seen = message.seq or 0
            reason = (message.headers or {}).get(subjects.REASON_HEADER, "")
            state = (message.subject or "").rpartition(".")[2]
            self._told.append(Told((message.data or b"").decode(), state, reason))
