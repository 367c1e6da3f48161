"""The tables as the writer changes them: each method is one transaction."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from app.index import database
from app.index.rows import Row, row_of, tags
from brokers.record_feed import Change, StreamState

PRUNED_AT_ONCE = 1_000

_PUT = (
    "INSERT INTO jobs (id, queued, state, priority, submitted_by, name, revision, summary)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " state = excluded.state, priority = excluded.priority, name = excluded.name,"
    " submitted_by = excluded.submitted_by, revision = excluded.revision,"
    " summary = excluded.summary"
)

log = logging.getLogger(__name__)


class JobTable:
    """For one thread, over a connection of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def adopt(self, state: StreamState) -> int:
        """The sequence to go on behind in this stream; 0 when all of it is to be read."""
        found = self._connection.execute("SELECT created, sequence FROM position").fetchone()
        if found is not None and found[0] == state.created and found[1] <= state.last:
            return int(found[1])
        if found is not None:
            log.info("the stream of records is another one: the index is made anew")
            database.make_anew(self._connection)
        self._connection.execute("INSERT INTO position VALUES (1, ?, 0)", (state.created,))
        return 0

    def apply(self, changes: Sequence[Change]) -> None:
        """Of several revisions of a record, only the last is looked at."""
        if not changes:
            return
        latest = {change.key: change for change in changes}
        with self._transaction():
            self._drop(key for key, change in latest.items() if change.value is None)
            self._store(list(_rows(latest.values())))
            self.reached(changes[-1].sequence)

    def reached(self, sequence: int) -> None:
        """There is nothing to be read up to there."""
        self._connection.execute("UPDATE position SET sequence = ?", (sequence,))

    def prune(self, first: int) -> None:
        """Drop what the stream does not keep any more: revisions below `first`."""
        found = self._connection.execute("SELECT id FROM jobs WHERE revision < ?", (first,))
        gone = [str(job_id) for (job_id,) in found.fetchall()]
        for start in range(0, len(gone), PRUNED_AT_ONCE):
            with self._transaction():
                self._drop(gone[start : start + PRUNED_AT_ONCE])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def _store(self, rows: Sequence[Row]) -> None:
        """A job that was queued anew, at another time, moves in every order: as a new one."""
        before = {row.id: self._queued(row.id) for row in rows}
        fresh = [row for row in rows if before[row.id] != row.queued]
        self._drop(row.id for row in fresh if before[row.id] is not None)
        self._connection.executemany(_PUT, map(_columns, rows))
        self._connection.executemany(
            "INSERT OR IGNORE INTO metadata VALUES (?, ?, ?)",
            ((tag, row.queued, row.id) for row in fresh for tag in row.tags),
        )

    def _queued(self, job_id: str) -> int | None:
        found = self._connection.execute("SELECT queued FROM jobs WHERE id = ?", (job_id,))
        row = found.fetchone()
        return None if row is None else int(row[0])

    def _drop(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            found = self._connection.execute(
                "DELETE FROM jobs WHERE id = ? RETURNING queued, summary", (job_id,)
            )
            for queued, brief in found.fetchall():
                self._connection.executemany(
                    "DELETE FROM metadata WHERE tag = ? AND queued = ? AND id = ?",
                    ((tag, queued, job_id) for tag in tags(json.loads(brief))),
                )


def _columns(row: Row) -> tuple[object, ...]:
    jobs = (row.id, row.queued, row.state, row.priority, row.submitted_by, row.name)
    return (*jobs, row.revision, row.summary)


def _rows(changes: Iterable[Change]) -> Iterator[Row]:
    for change in changes:
        if change.value is None:
            continue
        try:
            yield row_of(change)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is no record: %s", change.key, type(error).__name__)
