"""Whether a machine has what every job needs of it: room on its disk, open files."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from executors.errors import ExecutorUnavailable, InfrastructureError

MIN_FREE_INODES = 4096
"""Files that can still be made; a workspace takes a few, an image thousands."""

_EXHAUSTED = {errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EROFS}
_WORDS = re.compile(
    "no space left on device|disk quota exceeded|too many open files|read-only file system",
    re.IGNORECASE,
)


def failure(doing: str, error: OSError) -> InfrastructureError:
    """ExecutorUnavailable when the same would befall any job."""
    kind = ExecutorUnavailable if error.errno in _EXHAUSTED else InfrastructureError
    return kind(f"{doing} failed: {error}")


def exhausted(words: str) -> bool:
    """Whether a program says, in the C library's words, that the machine has run out."""
    return _WORDS.search(words) is not None


def require_free(directory: Path, floor: int) -> None:
    """Raises ExecutorUnavailable when less than `floor` bytes, or hardly a file, fit below there.

    Of a directory that is not there yet, its parent counts. 0: nothing is asked.
    """
    if not floor:
        return
    there = next(path for path in (directory, *directory.parents) if path.exists())
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    if free < floor:
        raise ExecutorUnavailable(
            f"the disk of {directory} is full: {free >> 20} MiB are free, "
            f"HADES_MIN_FREE_DISK asks for {floor >> 20} MiB"
        )
    if disk.f_files > 0 and disk.f_favail < MIN_FREE_INODES:
        raise ExecutorUnavailable(
            f"the disk of {directory} is full: it takes only {disk.f_favail} more files"
        )
