"""A key-value bucket: the last value of each key, with revisions for compare-and-set and TTLs."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from typing import Any

import nats.js.errors
from nats.js import api

from .connection import NatsConnection
from .streams import encode, ensure_stream

PATIENCE = 10.0
"""Seconds that an operation waits for NATS to come back, unless told otherwise."""

_EXPIRES = "Expires-At"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_STREAM = "Nats-Expected-Last-Sequence"
_DELETED = "KV-Operation"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key holds, and the revision that a compare-and-set names."""

    value: bytes | None
    """None: never set, deleted or expired."""
    revision: int


class Bucket:
    """Created on the server by its first use. `max_age` is in seconds; 0: values stay.

    Keys may be any text. Every method raises ConnectionClosed or ConnectionFailed when NATS stays
    away for `patience` seconds.
    """

    def __init__(
        self, connection: NatsConnection, name: str, *, max_age: float = 0.0, replicas: int = 1
    ) -> None:
        self.connection = connection
        self.name = name
        self._declared = False
        self._config = api.StreamConfig(
            name=f"KV_{name}",
            subjects=[f"$KV.{name}.>"],
            max_msgs_per_subject=1,
            max_age=max_age,
            num_replicas=replicas,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            duplicate_window=min(max_age or 120.0, 120.0),
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            allow_msg_ttl=True,
        )

    @property
    def stream(self) -> str:
        """The bucket's stream."""
        return f"KV_{self.name}"

    def subject(self, key: str) -> str:
        """Where changes of the key are published."""
        return f"$KV.{self.name}.{encode(key)}"

    def declare(self, patience: float = PATIENCE) -> None:
        """Create the bucket unless it is there. Idempotent."""
        if not self._declared:
            self.connection.patiently(self._ensure, patience)
            self._declared = True

    async def _ensure(self) -> None:
        await ensure_stream(self.connection.jetstream, self._config)

    def get(self, key: str, *, patience: float = PATIENCE) -> Entry:
        """The value of the key, and its revision."""
        self.declare(patience)

        async def attempt() -> api.RawStreamMsg | None:
            try:
                return await self.connection.jetstream.get_last_msg(
                    f"KV_{self.name}", self.subject(key), direct=True
                )
            except nats.js.errors.NotFoundError:
                return None

        message = self.connection.patiently(attempt, patience, declare=self._ensure)
        if message is None:
            return Entry(None, 0)
        over = _is_over(message.headers or {})
        return Entry(None if over else message.data or b"", int(message.seq or 0))

    def put(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | None = None,
        expected: int | None = None,
        expected_bucket: int | None = None,
        patience: float = PATIENCE,
    ) -> int:
        """Store the value; returns its revision. `ttl` is in seconds.

        `expected` is the key's revision that must be the last (0: no value yet), `expected_bucket`
        the bucket's; raises RevisionConflict otherwise.
        """
        self.declare(patience)
        headers = {}
        if ttl is not None:
            headers["Nats-TTL"] = f"{max(1, math.ceil(ttl))}s"
            headers[_EXPIRES] = repr(time.time() + ttl)
        if expected is not None:
            headers[_EXPECTED_SUBJECT] = str(expected)
        if expected_bucket is not None:
            headers[_EXPECTED_STREAM] = str(expected_bucket)
        return self.connection.publish(
            self.subject(key),
            value,
            headers=headers,
            message_id=secrets.token_hex(12),
            patience=patience,
            declare=self._ensure,
        )

    def delete(self, key: str) -> None:
        """Remove the value. Removing what is not there is no error."""
        self.declare()
        headers = {_DELETED: "PURGE", "Nats-Rollup": "sub"}
        self.connection.publish(self.subject(key), b"", headers=headers)

    def last_revision(self) -> int:
        """Revision of the bucket's last change."""
        self.declare()

        async def attempt() -> int:
            info = await self.connection.jetstream.stream_info(f"KV_{self.name}")
            return int(info.state.last_seq)

        return self.connection.patiently(attempt, PATIENCE)

    def keys(self) -> list[str]:
        """Keys as they stand in subjects (encoded), unordered. One request per 100,000 keys."""
        self.declare()
        prefix = len(f"$KV.{self.name}.")

        async def attempt() -> dict[str, int]:
            info: Any = await self.connection.jetstream.stream_info(
                f"KV_{self.name}", subjects_filter=f"$KV.{self.name}.>"
            )
            return info.state.subjects or {}

        return [subject[prefix:] for subject in self.connection.patiently(attempt, PATIENCE)]


def _is_over(headers: dict[str, str]) -> bool:
    if _DELETED in headers or "Nats-Marker-Reason" in headers:
        return True
    return float(headers.get(_EXPIRES, "inf")) <= time.time()
