"""What a job tells while it runs: log batches, states, its result. Wire forms as in the seed.

hades.logs.<job id>         {"job_id", "container_id", "logs": [...] | null}
hades.jobstatus.<State>     the job's id as text; X-Hades-Reason
hades.results.<job id>      the job's record
"""

from __future__ import annotations

import json
import math
import threading
from typing import Any

from nats.js import api

from brokers import subjects
from brokers.job_store import JobRecord
from brokers.nats.connection import NatsConnection
from brokers.nats.streams import ensure_stream
from executors.job import JobState, LogBatch

MAX_REASON = 500
"""Characters of a reason on the wire."""


class Events:
    """Stored when a method returns. `patience`: seconds that it waits for NATS to come back."""

    def __init__(
        self, connection: NatsConnection, *, max_age: float, patience: float = math.inf
    ) -> None:
        self.connection = connection
        self._max_age = max_age
        self._patience = patience
        self._declared = False
        self._lock = threading.Lock()

    def declare(self) -> None:
        """Create the streams unless they are there. Idempotent."""
        with self._lock:
            if not self._declared:
                self.connection.patiently(self._declare, self._patience)
                self._declared = True

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

    def status(self, job_id: str, state: JobState, *, attempt: int = 0, reason: str = "") -> None:
        """Say that the job entered a state."""
        headers = {subjects.REASON_HEADER: _header_text(reason)} if reason else {}
        self._publish(
            subjects.status(state), job_id.encode(), headers, f"{job_id}-{attempt}-{state}"
        )

    def log(self, batch: LogBatch) -> None:
        """Publish some lines of one step."""
        headers = {
            subjects.ATTEMPT_HEADER: str(batch.attempt),
            subjects.STEP_HEADER: str(batch.step),
            subjects.SEQUENCE_HEADER: str(batch.sequence),
        }
        self._publish(
            subjects.logs(batch.job_id),
            json.dumps(log_message(batch), ensure_ascii=False).encode(),
            headers,
            f"{batch.job_id}-{batch.attempt}-log-{batch.sequence}",
        )

    def ended(self, record: JobRecord) -> None:
        """Tell how the job ended. Again does no harm: for a while, streams drop what they have."""
        self.result(record)
        self.status(record.id, record.state, attempt=record.attempt, reason=record.reason)

    def result(self, record: JobRecord) -> None:
        """Publish how the job ended."""
        self._publish(
            subjects.results(record.id),
            json.dumps(record.to_dict()).encode(),
            {},
            f"{record.id}-{record.attempt}-result",
        )

    def _publish(self, subject: str, data: bytes, headers: dict[str, str], message_id: str) -> None:
        self.declare()
        self.connection.publish(
            subject,
            data,
            headers=headers,
            message_id=message_id,
            patience=self._patience,
            declare=self._declare,
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
