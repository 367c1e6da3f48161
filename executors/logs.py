"""From the bytes of a step's output to batches of log lines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from executors.base import OutputStream

MAX_LINE = 64 * 1024
"""Characters of one log entry; a longer line becomes several, none of it is lost."""
MAX_BATCH_ENTRIES = 1000
MAX_BATCH_BYTES = 256 * 1024
"""Text of one batch: well below NATS' largest message, also when JSON escapes every character."""
MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Text that waits for NATS before the step that writes it has to wait too."""
BATCH_SECONDS = 0.05
"""The longest that a line waits for others to share its message."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line."""

    timestamp: str
    """RFC 3339 with microseconds, UTC."""
    message: str
    output_stream: OutputStream


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBatch:
    """Some consecutive lines of one step; an empty batch registers the step's slot."""

    job_id: str
    attempt: int
    step: int
    """Index of the step, from 0."""
    container_id: str
    sequence: int
    """Position of this batch among all of the attempt, from 0."""
    entries: tuple[LogEntry, ...]


def now() -> str:
    """This moment, as log entries and records write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
