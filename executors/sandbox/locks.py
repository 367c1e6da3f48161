"""Locks that also other processes see, and that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from executors.sandbox.tree import opened, remove_tree


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock file, and hold it. It excludes threads too; it is not reentrant."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def workshop(directory: Path, gate: Path) -> Iterator[Path]:
    """A fresh directory inside `directory`, gone when the block is left or its process is dead.

    Each is locked by its maker, so that the next to come can tell what was left behind, and
    removes it. `gate` is the lock file that keeps the two apart while one is being made.
    """
    with locked(gate):
        sweep(directory)
        fresh = Path(mkdtemp(dir=directory))
        fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield fresh
    finally:
        remove_tree(fresh)
        os.close(fd)


def sweep(directory: Path) -> int:
    """Remove what dead makers left, and say how much; the gate's lock must be held."""
    abandoned = [left for left in directory.iterdir() if _abandoned(left)]
    for left in abandoned:
        remove_tree(left)
    return len(abandoned)


def _abandoned(path: Path) -> bool:
    try:
        with opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody's, or already gone
        return False
    return True
