"""Questions to the index, from any thread of any process that shares its file."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep

from app.index.database import open_for_reading
from app.index.query import Cursor, Filter, select
from app.index.rows import tag
from brokers.nats.errors import BrokerError
from brokers.record_feed import RecordFeed, StreamState

CATCH_UP_SECONDS = 1.0
"""How long a question waits until the index knows of all that was confirmed before it."""
IDLE_CONNECTIONS = 4
COUNTED = 1_000
"""Jobs with a pair of metadata that are counted; where there are more, it does not matter."""

_LOOKS = (0.001, 0.02)
"""Seconds between two looks at the position: at first, and at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """`jobs` are summaries as JSON text, newest first."""

    jobs: tuple[str, ...]
    ids: tuple[str, ...]
    next: Cursor | None
    """None: there are no more."""


class IndexAway(Exception):
    """There is no index yet, or it can't be read."""


class JobIndex:
    """Reads while another thread or process writes."""

    def __init__(self, path: Path, feed: RecordFeed) -> None:
        self._path = path
        self._feed = feed
        self._idle: deque[tuple[int, sqlite3.Connection]] = deque()
        self._lock = threading.Lock()

    def page(self, wanted: Filter, after: Cursor | None, limit: int) -> Page:
        """Raises IndexAway."""
        with self._connection() as connection:
            sql, values = select(_rarest_first(connection, wanted), after, limit + 1)
            found = connection.execute(sql, values).fetchall()
        more, found = len(found) > limit, found[:limit]
        return Page(
            jobs=tuple(brief for _, _, brief in found),
            ids=tuple(job_id for _, job_id, _ in found),
            next=Cursor(found[-1][0], found[-1][1]) if more else None,
        )

    def every_id(self, wanted: Filter, batch: int = 500) -> Iterator[tuple[str, ...]]:
        """All jobs that there are, in batches. Raises IndexAway."""
        after, more = None, True
        while more:
            page = self.page(wanted, after, batch)
            yield page.ids
            after, more = page.next, page.next is not None

    def catch_up(self, timeout: float = CATCH_UP_SECONDS) -> int | None:
        """Wait, `timeout` seconds at most, for all changes that were confirmed before now.

        Returns how many are still missing; None when that can't be known, as NATS is away.
        """
        deadline = monotonic() + timeout
        try:
            state = self._feed.state()
        except BrokerError:
            return None
        pause = _LOOKS[0]
        while (missing := self._missing(state)) and monotonic() < deadline:
            sleep(pause)
            pause = min(2 * pause, _LOOKS[1])
        return missing

    def _missing(self, state: StreamState) -> int:
        try:
            with self._connection() as connection:
                found = connection.execute("SELECT created, sequence FROM position").fetchone()
        except IndexAway:
            found = None
        if found is None or found[0] != state.created:
            return state.last
        return max(0, state.last - int(found[1]))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Of the file that stands there now: a broken one is replaced."""
        try:
            number, connection = self._take(self._path.stat().st_ino)
        except (OSError, sqlite3.Error) as error:
            raise IndexAway(str(error)) from error
        try:
            yield connection
        except sqlite3.Error as error:
            connection.close()
            raise IndexAway(str(error)) from error
        except BaseException:
            connection.close()
            raise
        self._give_back(number, connection)

    def _take(self, number: int) -> tuple[int, sqlite3.Connection]:
        with self._lock:
            while self._idle:
                found, connection = self._idle.pop()
                if found == number:
                    return found, connection
                connection.close()
        return number, open_for_reading(self._path)

    def _give_back(self, number: int, connection: sqlite3.Connection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append((number, connection))
                return
        connection.close()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()


def _rarest_first(connection: sqlite3.Connection, wanted: Filter) -> Filter:
    """Of several pairs of metadata, the one that the fewest jobs have leads to the jobs."""
    if len(wanted.metadata) < 2:
        return wanted
    counted = "SELECT count(*) FROM (SELECT 1 FROM metadata WHERE tag = ? LIMIT ?)"

    def jobs_with(pair: tuple[str, str]) -> int:
        return int(connection.execute(counted, (tag(*pair), COUNTED)).fetchone()[0])

    return replace(wanted, metadata=dict(sorted(wanted.metadata.items(), key=jobs_with)))
