"""What happened to a job: the difference between each revision of its record and the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from brokers.records import JobRecord

Revision = tuple[int, JobRecord]


def changes(history: Iterable[Revision], before: JobRecord | None = None) -> Iterator[Any]:
    """One event for each revision. `before` is the record that the first one replaced."""
    for revision, record in history:
        yield change(revision, before, record)
        before = record


def change(revision: int, before: JobRecord | None, record: JobRecord) -> dict[str, Any]:
    """The event: what the job was from then on, and those of its steps that had changed."""
    old = before.steps if before is not None else ()
    steps = [
        {"index": index, **asdict(step)}
        for index, step in enumerate(record.steps)
        if index >= len(old) or old[index] != step
    ]
    return {
        "id": revision,
        "at": record.updated_at,
        "state": record.state,
        "reason": record.reason,
        "attempt": record.attempt,
        "worker": record.worker,
        "steps": steps,
    }
