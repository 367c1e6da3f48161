"""What a job tells while it runs: log batches, states, its result. Wire forms as in the seed.

hades.logs.<job id>         {"job_id", "container_id", "logs": [...] | null}
hades.jobstatus.<State>     the job's id as text; X-Hades-Reason
hades.results.<job id>      the job's record
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from nats.js import api

from brokers import subjects
from brokers.nats.connection import NatsConnection
from brokers.nats.publisher import Publication, Publisher
from brokers.nats.streams import ensure_stream
from brokers.records import JobRecord
from executors.job import LogBatch


class Listener(Protocol):
    """Somebody who wants to know what becomes of jobs. Again must do no harm."""

    def changed(self, record: JobRecord) -> None:
        """The job has entered a state that is not final."""

    def ended(self, record: JobRecord) -> None:
        """The job is over."""


MAX_REASON = 500
"""Characters of a reason on the wire."""


class Events:
    """Stored when a method returns. `patience`: seconds that it waits for NATS to come back.

    `listeners` hear of every change of a job's state once it is stored.
    """

    def __init__(
        self,
        connection: NatsConnection,
        *,
        max_age: float,
        patience: float = math.inf,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.connection = connection
        self._max_age = max_age
        self._patience = patience
        self._listeners = listeners
        self._publisher = Publisher(connection.open_wire, self._declare_now)
        self._declared = False
        self._lock = threading.Lock()

    def declare(self) -> None:
        """Create the streams unless they are there. Idempotent."""
        with self._lock:
            if not self._declared:
                self._declare_now()
                self._declared = True

    def doubt(self) -> None:
        """Somebody may have deleted the streams: look again before the next use."""
        self._declared = False

    def _declare_now(self) -> None:
        self.connection.patiently(self._declare, self._patience)

    async def _declare(self) -> None:
        for name, subject in (
            (subjects.LOG_STREAM, subjects.LOG_SUBJECTS),
            (subjects.STATUS_STREAM, subjects.STATUS_SUBJECTS),
            (subjects.RESULT_STREAM, subjects.RESULT_SUBJECTS),
        ):
            config = api.StreamConfig(
                name=name,
                subjects=[subject],
                max_age=self._max_age,
                duplicate_window=60.0,
                storage=api.StorageType.FILE,
                retention=api.RetentionPolicy.LIMITS,
                allow_direct=True,
            )
            await ensure_stream(self.connection.jetstream, config)

    def changed(self, record: JobRecord) -> None:
        """Say that the job entered a state that is not final. Again does no harm, for a minute."""
        self._publish([self.status(record)])
        self.tell_listeners([record])

    def status(self, record: JobRecord) -> Publication:
        """What says that the job entered its state, for who sends it along with something else.

        The streams must have been declared.
        """
        headers = {subjects.ATTEMPT_HEADER: str(record.attempt)}
        if record.reason:
            headers[subjects.REASON_HEADER] = _header_text(record.reason)
        return Publication.of(
            subjects.status(record.state),
            headers,
            record.id.encode(),
            f"{record.id}-{record.attempt}-{record.state}-{record.updated_at}",
        )

    def tell_listeners(self, records: Sequence[JobRecord]) -> None:
        """Of jobs that have entered a state that is not final."""
        for record in records:
            for listener in self._listeners:
                listener.changed(record)

    def ended(self, record: JobRecord, *, log_complete: bool = True) -> None:
        """Tell how the job ended. Again does no harm: for a while, streams drop what they have.

        Listeners hear of it when its log is complete.
        """
        self._publish([_result(record), self.status(record)])
        if log_complete:
            for listener in self._listeners:
                listener.ended(record)

    def log(self, batch: LogBatch) -> None:
        """Publish some lines of one step."""
        headers = {
            subjects.ATTEMPT_HEADER: str(batch.attempt),
            subjects.STEP_HEADER: str(batch.step),
            subjects.SEQUENCE_HEADER: str(batch.sequence),
        }
        message = Publication.of(
            subjects.logs(batch.job_id),
            headers,
            json.dumps(log_message(batch), ensure_ascii=False).encode(),
            f"{batch.job_id}-{batch.attempt}-log-{batch.sequence}",
        )
        self._publish([message])

    def _publish(self, messages: Sequence[Publication]) -> None:
        self.declare()
        self._publisher.publish_many(messages, self._patience)

    def close(self) -> None:
        """Hang up; the connection stays. Idempotent."""
        self._publisher.close()


def _result(record: JobRecord) -> Publication:
    return Publication.of(
        subjects.results(record.id),
        {},
        json.dumps(record.to_dict()).encode(),
        f"{record.id}-{record.attempt}-result-{record.updated_at}",
    )


def log_message(batch: LogBatch) -> dict[str, Any]:
    """The seed's JSON of some lines; `logs` is null in the message that registers a slot."""
    entries = [
        {
            "timestamp": entry.timestamp,
            "message": entry.message,
            "output_stream": str(entry.output_stream),
        }
        for entry in batch.entries
    ]
    return {"job_id": batch.job_id, "container_id": batch.container_id, "logs": entries or None}


def _header_text(text: str) -> str:
    """A header is one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON else line[:MAX_REASON] + "…"
