"""Keeps the index's file up to date, in one of the processes that share it.

The writer has the file's lock; when its process ends, however, another one's gets it. What was
applied and how far the stream was read is one transaction, so whoever goes on does it behind the
last change. It begins anew when the stream is another one, or the file of another version.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from app.index import database
from app.index.table import JobTable
from brokers.nats.errors import BrokerError
from brokers.record_feed import Change, RecordFeed

LOCK_SECONDS = 0.25
"""How often a process without the lock tries to get it."""
RETRY_SECONDS = 0.25
PRUNE_SECONDS = 60.0
BREATH_SECONDS = 0.01
"""Between two transactions, while changes come one by one: together they cost far less."""
FEW = 32
"""Changes at once; where more come, the writer is behind and does not wait."""
LISTEN_SECONDS = 0.2
"""How long a closing writer may still wait for changes."""

_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

log = logging.getLogger(__name__)


class IndexWriter:
    """A thread that has begun with `start`, and ends with `close` or with its process."""

    def __init__(self, path: Path, feed: RecordFeed) -> None:
        self._path = path
        self._feed = feed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Give the lock to another process. Idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._write_while_locked()
            except (OSError, database.IndexUnusable) as error:
                log.warning("the index can't be written: %s", error)
            self._stopped.wait(LOCK_SECONDS)

    def _write_while_locked(self) -> None:
        database.own(self._path.parent)
        lock = self._path.with_suffix(".lock")
        with _lock(lock) as number:
            while number and _is_there(lock, number) and not self._stopped.is_set():
                self._write_until_trouble()
                self._stopped.wait(RETRY_SECONDS)

    def _write_until_trouble(self) -> None:
        try:
            self._write()
        except BrokerError as error:
            log.debug("the index waits for the stream of records: %r", error)
        except sqlite3.DatabaseError as error:
            log.warning("the index can't be written: %s", error)
            if error.sqlite_errorcode in _BROKEN:
                database.remove(self._path)
        except Exception:
            log.exception("the index can't be written")

    def _write(self) -> None:
        connection = database.open_for_writing(self._path)
        try:
            table, number = JobTable(connection), self._path.stat().st_ino
            state = self._feed.state()
            with self._feed.tail(table.adopt(state)) as tail:
                if not tail.pending:
                    table.reached(state.last)
                table.prune(state.first)
                pruned = monotonic()
                while not self._stopped.is_set() and _is_there(self._path, number):
                    self._apply(table, tail.next(LISTEN_SECONDS))
                    if monotonic() - pruned > PRUNE_SECONDS:
                        table.prune(self._feed.state().first)
                        pruned = monotonic()
        finally:
            connection.close()

    def _apply(self, table: JobTable, changes: list[Change]) -> None:
        if changes:
            table.apply(changes)
            if len(changes) < FEW:
                sleep(BREATH_SECONDS)


@contextmanager
def _lock(path: Path) -> Iterator[int]:
    """The number of the file that this process has locked; 0: another process has."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield 0
    else:
        yield os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _is_there(path: Path, number: int) -> bool:
    """Whether it is still that file: somebody may tidy up, and readers would look for another."""
    try:
        return path.stat().st_ino == number
    except FileNotFoundError:
        return False
