"""A key-value bucket: the last value of each key, with revisions for compare-and-set and TTLs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from nats.js import api

from .connection import NatsConnection
from .entries import Entry, checked, entry_in, entry_of, expecting, lifetime, marked
from .errors import ConnectionClosed, ConnectionFailed, RevisionConflict
from .forks import Ids
from .requester import Line, Requester
from .streams import encode, ensure_stream

__all__ = ["PATIENCE", "Bucket", "Entry", "Key", "Storage"]

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that an operation waits for NATS to come back, unless told otherwise."""

Storage = Literal["file", "memory"]
Key = str | tuple[str, ...]
"""Any text; a tuple: the tokens of a subject, for keys of which one belongs to the other."""

_API = "$JS.API"
_AT_ONCE = 256  # requests
_DUPLICATE_SECONDS = 30.0  # the server keeps 0.2 kB for each message id of this time
_LONGEST_TOKEN = 512  # a subject that fills the protocol's line would close the connection


class Bucket:
    """Created on the server by its first use. `max_age` is in seconds; 0: values stay. `history` is
    how many revisions of a key are kept.

    Keys may be any text. Methods raise ConnectionClosed or ConnectionFailed when NATS stays away
    for `patience` seconds; those that take a `line` do so at once. Reads are answered by any
    replica, which may be a moment behind the leader: a write that depends on a read must name its
    revision. A thread has a wire for itself while it speaks to NATS, and leaves it to the next one.

    A TTL ends at the time that the writer's clock said plus `ttl`, by the reader's clock: clocks
    that are d seconds apart shift it by d. The server, which knows whole seconds only, removes the
    value up to a second later, so a reader whose clock is slow does not see it for ever.
    """

    def __init__(
        self,
        connection: NatsConnection,
        name: str,
        *,
        max_age: float = 0.0,
        replicas: int = 1,
        storage: Storage = "file",
        history: int = 1,
    ) -> None:
        self.connection = connection
        self.requester = Requester(connection.open_wire)
        self.name = name
        self._ids = Ids()
        self._declared = False
        self._config = api.StreamConfig(
            name=self.stream,
            subjects=[f"$KV.{name}.>"],
            max_msgs_per_subject=history,
            max_age=max_age,
            num_replicas=replicas,
            storage=api.StorageType(storage),
            discard=api.DiscardPolicy.NEW,
            duplicate_window=min(max_age or _DUPLICATE_SECONDS, _DUPLICATE_SECONDS),
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            allow_msg_ttl=True,
        )

    @property
    def stream(self) -> str:
        """The bucket's stream."""
        return f"KV_{self.name}"

    def subject(self, key: Key) -> str:
        """Where changes of the key are published."""
        tokens = (key,) if isinstance(key, str) else key
        return ".".join((f"$KV.{self.name}", *map(_token, tokens)))

    def declare(self, patience: float = PATIENCE) -> None:
        """Create the bucket unless it is there. Idempotent."""
        if not self._declared:
            self.connection.patiently(self._ensure, patience)
            self._declared = True

    def declare_again(self) -> None:
        """After nobody has answered: somebody may have deleted it. Nothing happens without NATS."""
        with suppress(ConnectionClosed, ConnectionFailed):
            self.connection.patiently(self._ensure, 0.0)

    async def _ensure(self) -> None:
        await ensure_stream(self.connection.jetstream, self._config)

    def patiently(self, attempt: Callable[[Line], T], patience: float) -> T:
        """Repeat `attempt` until it gets through, or NATS has been away for `patience` seconds."""
        self.declare(patience)
        return self.requester.patiently(attempt, patience, self.declare_again)

    def get(self, key: Key, *, patience: float = PATIENCE) -> Entry:
        """The value of the key, and its revision."""
        return self.patiently(lambda line: self.read(line, key), patience)

    def read(self, line: Line, key: Key) -> Entry:
        """The same, as one request."""
        return entry_of(line.ask(self.getter(key)))

    def getter(self, key: Key) -> str:
        """The subject that asks for the key's value; `entry_of` understands the answer."""
        return f"{_API}.DIRECT.GET.{self.stream}.{self.subject(key)}"

    def history(self, key: Key, *, patience: float = PATIENCE) -> list[Entry]:
        """What is kept of the key's revisions, the oldest first."""
        return self.patiently(lambda line: self._history(line, key), patience)

    def _history(self, line: Line, key: Key) -> list[Entry]:
        found, getter = list[Entry](), f"{_API}.DIRECT.GET.{self.stream}"
        while True:
            start = found[-1].revision + 1 if found else 1
            question = {"seq": start, "next_by_subj": self.subject(key)}
            entry = entry_of(line.ask(getter, json.dumps(question).encode()))
            if not entry.revision:
                return found
            found.append(entry)

    def read_from_leader(self, line: Line, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Only the leader is sure to know of every write that was confirmed. A request a key."""
        keys, entries = list(keys), dict[Key, Entry]()
        for start in range(0, len(keys), _AT_ONCE):
            batch = keys[start : start + _AT_ONCE]
            asked = [json.dumps({"last_by_subj": self.subject(key)}).encode() for key in batch]
            getter = f"{_API}.STREAM.MSG.GET.{self.stream}"
            answers = line.ask_all([(getter, question, {}) for question in asked])
            entries.update(zip(batch, map(entry_in, answers), strict=True))
        return entries

    def put(
        self,
        key: Key,
        value: bytes,
        *,
        ttl: float | None = None,
        expected: int | None = None,
        patience: float = PATIENCE,
    ) -> int:
        """Store the value; returns its revision. `ttl` is in seconds.

        `expected` is the key's revision that must be the last (0: no value yet); raises
        RevisionConflict otherwise. Raises MessageTooLarge.
        """
        headers, message_id = lifetime(ttl), self._ids.next()
        if expected is not None:
            headers |= expecting(expected) | marked(message_id)

        def attempt(line: Line) -> int:
            try:
                return self.write(line, key, value, headers)
            except RevisionConflict:
                entry = self.read(line, key)
                if entry.message_id != message_id:
                    raise
                return entry.revision  # of an earlier attempt, of which only the answer was lost

        return self.patiently(attempt, patience)

    def create_many(
        self, items: Sequence[tuple[Key, bytes]], *, patience: float = PATIENCE
    ) -> None:
        """Store the values of keys that have none; what others have stays as it is.

        After an error some may be stored. Raises MessageTooLarge.
        """
        self.create_together([(self, key, value) for key, value in items], patience=patience)

    def create_together(
        self, items: Sequence[tuple[Bucket, Key, bytes]], *, patience: float = PATIENCE
    ) -> None:
        """The same for values of several buckets of one connection, at the price of one."""
        for bucket in {bucket for bucket, _, _ in items}:
            bucket.declare(patience)
        headers = expecting(0)
        questions = [(bucket.subject(key), value, headers) for bucket, key, value in items]
        for start in range(0, len(questions), _AT_ONCE):
            batch = questions[start : start + _AT_ONCE]
            self.patiently(lambda line, batch=batch: _create_all(line, batch), patience)  # type: ignore[misc]

    def write(self, line: Line, key: Key, value: bytes, headers: Mapping[str, str]) -> int:
        """Store the value as one request; returns its revision."""
        return int(checked(line.ask(self.subject(key), value, headers))["seq"])

    def change(self, line: Line, key: Key, value: bytes, headers: Mapping[str, str]) -> int | None:
        """The same; None, with nothing stored, when the headers expect another revision."""
        try:
            return self.write(line, key, value, headers)
        except RevisionConflict:
            return None

    def delete(self, key: Key) -> None:
        """Remove the value. Removing what is not there is no error."""
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        self.patiently(lambda line: self.write(line, key, b"", headers), PATIENCE)

    def erase(self, prefix: tuple[str, ...], *, patience: float = PATIENCE) -> None:
        """Remove the values of all keys that begin with these tokens, with no mark left behind."""
        subject = json.dumps({"filter": f"{self.subject(prefix)}.>"}).encode()
        purge = f"{_API}.STREAM.PURGE.{self.stream}"
        self.patiently(lambda line: checked(line.ask(purge, subject)), patience)

    def last_revision(self, line: Line) -> int:
        """Of the bucket's last change, from its leader."""
        return int(self._info(line, {})["state"]["last_seq"])

    def keys(self) -> list[str]:
        """Keys as they stand in subjects (encoded), unordered. One request per 100,000 keys."""
        return self.patiently(self._keys, PATIENCE)

    def _keys(self, line: Line) -> list[str]:
        prefix, found = f"$KV.{self.name}.", list[str]()
        while True:
            page = self._info(line, {"subjects_filter": f"{prefix}>", "offset": len(found)})
            subjects = page["state"].get("subjects") or ()
            found += [subject[len(prefix) :] for subject in subjects]
            if not subjects or len(found) >= page.get("total", 0):
                return found

    def values(self, *, patience: float = PATIENCE) -> list[bytes]:
        """All that there are at the moment, unordered. For buckets of a few hundred."""
        return self.patiently(self._values, patience)

    def _values(self, line: Line) -> list[bytes]:
        prefix, found = f"{_API}.DIRECT.GET.{self.stream}.$KV.{self.name}.", list[bytes]()
        keys = self._keys(line)
        for start in range(0, len(keys), _AT_ONCE):
            batch = keys[start : start + _AT_ONCE]
            answers = line.ask_all([(prefix + key, b"", {}) for key in batch])
            values = (entry_of(answer).current for answer in answers)
            found += [value for value in values if value is not None]
        return found

    def _info(self, line: Line, wanted: dict[str, object]) -> dict[str, Any]:
        return checked(line.ask(f"{_API}.STREAM.INFO.{self.stream}", json.dumps(wanted).encode()))

    def close(self) -> None:
        """Hang up what is not in use. Idempotent; the connection stays."""
        self.requester.close()


def _create_all(line: Line, questions: Sequence[tuple[str, bytes, Mapping[str, str]]]) -> None:
    """Again does no harm: what an earlier attempt has stored is there."""
    for answer in line.ask_all(questions):
        with suppress(RevisionConflict):
            checked(answer)


def _token(text: str) -> str:
    """One token of a subject for any text: `=` alone is no code of `encode`, nor is `=h`."""
    token = encode(text) or "="
    if len(token) > _LONGEST_TOKEN:
        return f"=h{hashlib.sha256(text.encode()).hexdigest()}"
    return token
