"""Changes of values that depend on the values before: no update is lost, whoever writes.

Every write names the revision that its decision was made from, and is decided anew when somebody
else was faster. Threads of one process take turns at a key, so that only processes compete; those
wait for a random moment after a conflict, so none of them is kept out for ever.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, sleep, time
from typing import NamedTuple

from .buckets import PATIENCE, Bucket, Key
from .entries import Entry, expecting, lifetime, marked
from .forks import Ids, after_fork
from .requester import Line

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02
"""Seconds; a pause is random up to a bound that doubles with each conflict."""
_TRUSTED = 1.0
"""Seconds for which a process builds on its own last write without reading it first."""
_LONGEST_TURN = 5.0
"""Seconds after which a thread does not wait for its turn any more. Turns save conflicts; that
updates are not lost does not depend on them."""
_REMEMBERED = 1024
"""Keys; when there are more, those that nobody is changing are forgotten."""


class Write(NamedTuple):
    """What shall be stored, and for how many seconds."""

    value: bytes
    ttl: float


Decide = Callable[[bytes | None], Write | None]
"""From the value that is stored to the one that shall be; None: leave it. Called once for each try,
right after the value was read."""
DecideFromMany = Callable[[bytes | None, list[bytes | None]], Write | None]
"""The same, also from the values of other keys."""
_UNKNOWN = (Entry(None, 0), -1.0)


@dataclass(slots=True)
class _Turns:
    """Of the threads of this process at one key."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    known: tuple[Entry, float] = _UNKNOWN
    """What this process knows of the key, and when that was sure to be the last (monotonic)."""
    rivals_until: float = 0.0
    """Till when other processes are expected to write as well."""

    def guess(self, line: Line) -> Entry | None:
        """The entry without reading it, if it is likely to be the last one still.

        A wire that is older than this knowledge proves that the server has not been restarted.
        """
        (entry, at), now = self.known, monotonic()
        alone = self.users == 1 and now >= self.rivals_until
        return entry if alone and at > max(line.since, now - _TRUSTED) else None


class Changes:
    """Compare-and-set on the keys of one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._ids = Ids()
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._turns: dict[Key, _Turns] = {}

    def change(self, key: Key, decide: Decide, *, patience: float = PATIENCE) -> bool:
        """Store what `decide` makes of the key's value; False: it left it as it is.

        Raises what `decide` raises, ConnectionClosed or ConnectionFailed when NATS stays away for
        `patience` seconds, MessageTooLarge.
        """
        change = _Change(self._bucket, key, decide, self._ids.next())
        with self._turn(key) as turns:
            return self._bucket.patiently(lambda line: change.run(line, turns), patience)

    def change_one(
        self, key: Key, keys: Callable[[], Iterable[Key]], decide: DecideFromMany
    ) -> bool:
        """Store what `decide` makes of the values of `key` and of `keys()`, in `key`.

        For keys that have nothing in common: the write names the last revision of the whole bucket,
        so every other change of the bucket is a conflict. Otherwise as `change`.
        """
        message_id = self._ids.next()
        with self._turn(()):
            return self._bucket.patiently(
                lambda line: self._change_one(line, key, keys, decide, message_id), PATIENCE
            )

    @contextmanager
    def _turn(self, key: Key) -> Iterator[_Turns]:
        with self._guard:
            turns = self._turns.setdefault(key, _Turns())
            turns.users += 1
        locked = turns.lock.acquire(timeout=_LONGEST_TURN)
        try:
            yield turns
        finally:
            if locked:
                turns.lock.release()
            self._leave(key, turns, forget=not locked)

    def _leave(self, key: Key, turns: _Turns, *, forget: bool) -> None:
        """Turns that somebody keeps, interrupted or in trouble, are left to him."""
        with self._guard:
            turns.users -= 1
            if forget and self._turns.get(key) is turns:
                del self._turns[key]
            if len(self._turns) > _REMEMBERED:
                self._turns = {key: turns for key, turns in self._turns.items() if turns.users}

    def _change_one(
        self,
        line: Line,
        key: Key,
        keys: Callable[[], Iterable[Key]],
        decide: DecideFromMany,
        message_id: str,
    ) -> bool:
        for conflicts in count():
            revision = self._bucket.last_revision(line)
            others = list(keys())
            entries = self._bucket.read_from_leader(line, {key, *others})
            if entries[key].message_id == message_id:
                return True
            write = decide(entries[key].current, [entries[other].current for other in others])
            if write is None:
                return False
            expected = expecting(revision, of_bucket=True)
            headers = lifetime(write.ttl) | expected | marked(message_id)
            if self._bucket.change(line, key, write.value, headers) is not None:
                return True
            _pause(conflicts)
        raise AssertionError


class _Change:
    """One change of one key; `run` may be repeated until it gets through."""

    def __init__(self, bucket: Bucket, key: Key, decide: Decide, message_id: str) -> None:
        self._bucket = bucket
        self._key = key
        self._decide = decide
        self._message_id = message_id
        """The same for all tries: the server stores one of them."""
        self._started = monotonic()

    def run(self, line: Line, turns: _Turns) -> bool:
        """Whether something was stored."""
        entry, conflicts = turns.guess(line), 0
        if turns.known[1] >= self._started:  # read by another thread while this one waited
            entry = turns.known[0]
        while True:
            entry = entry or self._read(line, turns)
            if entry.message_id == self._message_id:
                return True  # stored by an earlier try, of which only the answer was lost
            write = self._decide(entry.current)
            if write is None and turns.known[1] >= self._started:
                return False
            if write is not None:
                if self._store(line, turns, write, entry.revision):
                    return True
                turns.rivals_until = monotonic() + _TRUSTED
                _pause(conflicts)
                conflicts += 1
            entry = None

    def _read(self, line: Line, turns: _Turns) -> Entry:
        at = monotonic()
        entry = self._bucket.read(line, self._key)
        turns.known = (entry, at)
        return entry

    def _store(self, line: Line, turns: _Turns, write: Write, expected: int) -> bool:
        turns.known = _UNKNOWN
        at, until = monotonic(), time() + write.ttl
        headers = lifetime(write.ttl) | expecting(expected) | marked(self._message_id)
        revision = self._bucket.change(line, self._key, write.value, headers)
        if revision is None:
            return False
        if revision > expected:  # else an earlier try was stored, and others have written since
            turns.known = (Entry(write.value, revision, until, self._message_id), at)
        return True


def _pause(conflicts: int) -> None:
    sleep(random.uniform(0, min(_FIRST_PAUSE * 2**conflicts, _LONGEST_PAUSE)))
