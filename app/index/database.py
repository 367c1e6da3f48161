"""The index's file: its tables, and how it is opened by the writer and by readers."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path

VERSION = 1
"""Of the tables below and of what `rows` puts there; another one is made anew."""
READER_CACHE_KIB = 256
WRITER_CACHE_KIB = 4_096

_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE position (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    created TEXT NOT NULL,
    sequence INTEGER NOT NULL
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    queued INTEGER NOT NULL,
    state TEXT NOT NULL,
    priority TEXT NOT NULL,
    submitted_by TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    summary TEXT NOT NULL
);
CREATE INDEX by_time ON jobs (queued, id, state, priority, submitted_by, name);
CREATE INDEX by_state ON jobs (state, queued, id, priority, submitted_by, name);
CREATE INDEX by_name ON jobs (name, queued, id);
CREATE TABLE metadata (
    tag BLOB NOT NULL,
    queued INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (tag, queued, id)
) WITHOUT ROWID;
"""
_TABLES = ("position", "jobs", "metadata")


class IndexUnusable(Exception):
    """The directory is not ours alone."""


def index_file(directory: Path, installation: str) -> Path:
    """The file of this version for one installation, told apart by where its NATS is.

    Raises IndexUnusable.
    """
    own(directory)
    digest = hashlib.sha256(installation.encode()).hexdigest()[:12]
    return directory.resolve() / f"jobs-{digest}-v{VERSION}.sqlite3"


def own(directory: Path) -> None:
    """Make the directory, if need be. Raises IndexUnusable for one that others may write to."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = directory.lstat()
    except OSError as error:
        raise IndexUnusable(f"HADES_INDEX_DIR: {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        why = "must be a directory that only this user can write to"
        raise IndexUnusable(f"HADES_INDEX_DIR: {directory} {why}")


def open_for_writing(path: Path) -> sqlite3.Connection:
    """With the tables of this version: what another one left is emptied."""
    connection = _open(path, WRITER_CACHE_KIB)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    connection.execute("PRAGMA journal_size_limit=67108864")
    if _version(connection) != VERSION:
        make_anew(connection)
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def make_anew(connection: sqlite3.Connection) -> None:
    """Empty tables, in one transaction: readers see the old ones until it is done."""
    old = "".join(f"DROP TABLE IF EXISTS {table};" for table in _TABLES)
    connection.executescript(f"BEGIN;{old}{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error when there is no file yet, or one that its writer has not made anew."""
    connection = _open(path, READER_CACHE_KIB, mode="rw")
    if _version(connection) != VERSION:
        connection.close()
        raise sqlite3.OperationalError("the file is of another version")
    connection.execute("PRAGMA query_only=1")
    return connection


def _open(path: Path, cache_kib: int, mode: str = "rwc") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(f"PRAGMA cache_size=-{cache_kib}")
    return connection


def remove(path: Path) -> None:
    """Of a file that is broken, everything."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
