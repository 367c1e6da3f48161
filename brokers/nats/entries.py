"""What stands in a bucket's stream, and what the server says about it: headers and JSON. No I/O."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConnectionClosed, JetStreamError, NobodyAnswers, RevisionConflict, refusal
from .protocol import Arrival

_NOT_FOUND = "404"
_NO_MESSAGE, _NO_STREAM = 10037, 10059
_UNDER_WAY = 10158  # a write with the same message id
_EXPIRES = "Expires-At"
_MESSAGE_ID = "Nats-Msg-Id"
_OVER = ("KV-Operation", "Nats-Marker-Reason")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key holds, and the revision that a compare-and-set names."""

    value: bytes | None
    """None: never set, deleted or expired."""
    revision: int
    """0: nothing is stored. What has expired may have one, until the server removes it."""
    expires_at: float = math.inf
    """In seconds since the epoch, by the clock of who wrote it."""
    message_id: str = ""
    """Of the write."""

    @property
    def current(self) -> bytes | None:
        """The value, unless it has expired since the entry was read."""
        return None if self.expires_at <= time.time() else self.value


def marked(message_id: str) -> dict[str, str]:
    """Headers of a write that is stored once, however often it is sent."""
    return {_MESSAGE_ID: message_id}


def lifetime(ttl: float | None) -> dict[str, str]:
    """Headers of a write whose value lives for `ttl` seconds; None: as long as the bucket says."""
    if ttl is None:
        return {}
    return {
        "Nats-TTL": f"{max(1, math.ceil(ttl))}s",
        _EXPIRES: repr(time.time() + ttl),
    }


def expecting(revision: int, *, of_bucket: bool = False) -> dict[str, str]:
    """Headers of a write that is refused unless this is the last revision of key or bucket."""
    scope = "Sequence" if of_bucket else "Subject-Sequence"
    return {f"Nats-Expected-Last-{scope}": str(revision)}


def entry_of(answer: Arrival) -> Entry:
    """From a message of the bucket's stream, or from what the server says instead of one."""
    status = answer.status
    if status:
        if status != _NOT_FOUND:
            raise JetStreamError(f"the bucket can't be read: {answer.head[9:].decode().strip()}")
        return Entry(None, 0)
    headers = answer.headers
    return _entry(answer.data, headers, int(headers.get("Nats-Sequence", 0)))


def _entry(data: bytes, headers: Mapping[str, str], revision: int) -> Entry:
    expires_at = float(headers.get(_EXPIRES, "inf"))
    over = expires_at <= time.time() or any(mark in headers for mark in _OVER)
    return Entry(None if over else data, revision, expires_at, headers.get(_MESSAGE_ID, ""))


def entry_in(answer: Arrival) -> Entry:
    """From the leader's answer: a message as JSON."""
    try:
        message = checked(answer)["message"]
    except _NotFound:
        return Entry(None, 0)
    data, head = (base64.b64decode(message.get(field, "")) for field in ("data", "hdrs"))
    return _entry(data, Arrival("", 0, "", head, b"").headers, int(message["seq"]))


class _NotFound(JetStreamError):
    """No message has this subject."""


def checked(answer: Arrival) -> dict[str, Any]:
    """JetStream's answer. Raises what it says went wrong."""
    try:
        said: dict[str, Any] = json.loads(answer.data)
        error = said.get("error")
    except (ValueError, AttributeError):
        raise ConnectionClosed("what answered is no stream") from None
    if error:
        code, description = error.get("err_code", 0), str(error.get("description", ""))
        raise _refusal(error.get("code", 0), code, description)
    return said


def _refusal(code: int, error_code: int, description: str) -> Exception:
    if error_code == _NO_MESSAGE:
        return _NotFound(description)
    if error_code == _NO_STREAM:
        return NobodyAnswers(description)  # type: ignore[no-untyped-call]
    if error_code == _UNDER_WAY:
        return RevisionConflict(description)
    return refusal(code, error_code, description)
