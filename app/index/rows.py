"""What becomes of a record in the index, and of times and metadata in its columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from brokers.record_feed import Change

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OF_THE_RECORD_ALONE = ("steps", "step_names", "queue_seq", "callbacks")


@dataclass(frozen=True, slots=True)
class Row:
    """One job. `tags` are its metadata, as `tag` makes them."""

    id: str
    queued: int
    state: str
    priority: str
    submitted_by: str
    name: str
    revision: int
    summary: str
    tags: tuple[bytes, ...]


def row_of(change: Change) -> Row:
    """Raises ValueError, KeyError or TypeError for what is no record."""
    record = json.loads(change.value or b"")
    brief = summary(record)
    return Row(
        id=str(record["id"]),
        queued=microseconds(record["queued_at"]),
        state=str(record["state"]),
        priority=str(record["priority"]),
        submitted_by=_storable(str(record.get("submitted_by", ""))),
        name=_storable(str(record["name"])),
        revision=change.sequence,
        summary=json.dumps(brief, separators=(",", ":")),
        tags=tags(brief),
    )


def _storable(text: str) -> str:
    """JSON may hold halves of characters, which are no text elsewhere."""
    return text.encode(errors="replace").decode()


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What lists say of a job: its record, without its steps."""
    return {key: value for key, value in record.items() if key not in _OF_THE_RECORD_ALONE}


def tags(brief: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Of the metadata of a summary."""
    return tuple(tag(key, value) for key, value in (brief.get("metadata") or {}).items())


def tag(key: str, value: str) -> bytes:
    """A key with its value, of whatever length, as 16 bytes."""
    pair = json.dumps([key, value]).encode()
    return hashlib.blake2b(pair, digest_size=16).digest()


def microseconds(time: str) -> int:
    """Since the epoch, of an RFC 3339 time with an offset. Raises ValueError."""
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        raise ValueError("a time without an offset")
    return (moment - _EPOCH) // _MICROSECOND
