"""Every change of every record, in the order of the stream, in batches: for a read model.

    feed = RecordFeed(connection, store.stream)
    with feed.tail(after) as tail:
        changes = tail.next(seconds)

A tail from 0 begins with the last revision of each record; one from a sequence goes on behind it.
Both go on for ever. A tail that fails is of no more use: open another behind the last change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from brokers.nats import protocol
from brokers.nats.connection import NatsConnection
from brokers.nats.entries import checked
from brokers.nats.errors import ConnectionClosed
from brokers.nats.protocol import Arrival
from brokers.nats.requester import Line, Requester

BATCH = 1_000
"""Changes that one pull may bring. What waits here is bounded by it."""
BATCH_BYTES = 4 * 1024 * 1024
HEARTBEAT_SECONDS = 5.0
PULL_SECONDS = 30.0
"""How long the server keeps a pull that it cannot answer."""
SILENCE_SECONDS = 2.5 * HEARTBEAT_SECONDS
FORGET_SECONDS = 60.0
"""After so long without a pull the server forgets the consumer."""

_HEARTBEAT = "100"
_PULL_AGAIN = ("404", "408", "409")
_GONE = (b"Consumer Deleted", b"Leadership Change", b"Server Shutdown")
_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the stream of the records holds."""

    created: str
    """When it was made: another time is another stream."""
    first: int
    """Sequence of the oldest revision that is kept; what was below is gone for good."""
    last: int
    """Sequence of the last change, whether its revision is kept or not."""


@dataclass(frozen=True, slots=True)
class Change:
    """One revision of one record."""

    sequence: int
    key: str
    """The record's key as it stands in the subject."""
    value: bytes | None
    """The record's JSON; None: it was removed."""


class RecordFeed:
    """For any number of threads. Connections are opened by their first use."""

    def __init__(self, connection: NatsConnection, stream: str) -> None:
        self._open_wire = connection.open_wire
        self._requester = Requester(connection.open_wire)
        self._stream = stream

    def state(self, patience: float = 0.0) -> StreamState:
        """Raises ConnectionClosed or ConnectionFailed; NobodyAnswers when there is no stream yet.

        `patience` is in seconds.
        """
        return self._requester.patiently(self._state, patience, _leave_it)

    def _state(self, line: Line) -> StreamState:
        info = checked(line.ask(f"{_API}.STREAM.INFO.{self._stream}"))
        state = info["state"]
        return StreamState(str(info["created"]), int(state["first_seq"]), int(state["last_seq"]))

    @contextmanager
    def tail(self, after: int) -> Iterator[Tail]:
        """The changes behind the sequence `after`. Raises as `state` does."""
        with self._open_wire() as wire:
            tail = Tail(Line(wire), self._stream, after)
            try:
                yield tail
            finally:
                tail.leave()

    def close(self) -> None:
        """Hang up what is not in use. Idempotent."""
        self._requester.close()


class Tail:
    """Opened by `RecordFeed.tail`. For one thread."""

    def __init__(self, line: Line, stream: str, after: int) -> None:
        self._line = line
        self._stream = stream
        self._sid = line.next_sid()
        self._inbox = f"{line.wire.inbox}.tail.changes"
        line.wire.send(protocol.subscription(self._inbox, self._sid))
        created = self._create(after)
        self._consumer = str(created["name"])
        self.pending = int(created["num_pending"])
        """Changes that there were when it was opened."""
        self._awaited = 0  # changes that the pull may still bring
        self._count = 0  # as the consumer numbers them
        self._heard = monotonic()

    def _create(self, after: int) -> dict[str, Any]:
        request = {"stream_name": self._stream, "config": _config(_subjects(self._stream), after)}
        subject = f"{_API}.CONSUMER.CREATE.{self._stream}"
        return checked(self._line.ask(subject, json.dumps(request).encode()))

    def next(self, timeout: float) -> list[Change]:
        """What has come; empty after `timeout` seconds of silence, or when a pull has ended.

        Raises ConnectionClosed when the server or the consumer is gone.
        """
        if self._awaited <= 0:
            self._pull()
        changes = self._changes(self._line.wire.receive(timeout))
        if monotonic() - self._heard > SILENCE_SECONDS:
            raise ConnectionClosed("the stream is silent")
        return changes

    def _pull(self) -> None:
        request = {
            "batch": BATCH,
            "max_bytes": BATCH_BYTES,
            "expires": int(PULL_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        subject = f"{_API}.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        body = json.dumps(request).encode()
        self._line.wire.send(protocol.publication(subject, self._inbox, b"", body))
        self._awaited, self._heard = BATCH, monotonic()

    def _changes(self, arrivals: list[Arrival]) -> list[Change]:
        changes = []
        for arrival in arrivals:
            if arrival.sid != self._sid:
                continue
            self._heard = monotonic()
            if arrival.status:
                self._note(arrival)
            else:
                changes.append(self._change(arrival))
        return changes

    def _note(self, arrival: Arrival) -> None:
        """What the server says of the pull."""
        if arrival.status == _HEARTBEAT:
            return
        if arrival.status not in _PULL_AGAIN or any(word in arrival.head for word in _GONE):
            raise ConnectionClosed(f"the consumer is gone: {arrival.head[9:60]!r}")
        self._awaited = 0

    def _change(self, arrival: Arrival) -> Change:
        sequence, number = _numbers(arrival.reply)
        self._count += 1
        if number != self._count:
            raise ConnectionClosed("a change was lost on its way")
        self._awaited -= 1
        removed = b"\r\nKV-Operation:" in arrival.head or b"\r\nNats-Marker" in arrival.head
        key = arrival.subject.split(".", 2)[2]
        return Change(sequence, key, None if removed else arrival.data)

    def leave(self) -> None:
        """The server need not wait until it forgets the consumer by itself."""
        if not self._line.wire.closed:
            subject = f"{_API}.CONSUMER.DELETE.{self._stream}.{self._consumer}"
            self._line.wire.send(protocol.publication(subject, "", b"", b""))


def _config(subjects: str, after: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ack_policy": "none",
        "deliver_policy": "last_per_subject",
        "filter_subject": subjects,
        "inactive_threshold": int(FORGET_SECONDS * 1e9),
        "mem_storage": True,
        "num_replicas": 1,
        "replay_policy": "instant",
    }
    if after:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
    return config


def _subjects(stream: str) -> str:
    """Of all keys of the bucket that the stream keeps."""
    return f"$KV.{stream.removeprefix('KV_')}.>"


def _numbers(reply: str) -> tuple[int, int]:
    """Sequence in the stream, and the consumer's own, of an ack subject."""
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1])


def _leave_it() -> None:
    """A stream that is missing is made by those who write to it."""
