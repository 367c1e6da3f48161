"""Removes trees that hostile hands have filled, by whoever owns them or by root.

Nothing is reached through a link, and nothing by a path: only by names in open directories. A
directory is emptied by moving its directories up to the top, so that no nesting, however deep,
costs open files or stack.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from executors.sandbox.tree import opened

_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_attempt(path: Path) -> None:
    """Delete a directory whose parent is trusted, with all there is below; a missing one is no
    error. Raises OSError.
    """
    with suppress(FileNotFoundError), opened(path) as top:
        while names := os.listdir(top):
            for name in names:
                _remove(top, name)
    with suppress(FileNotFoundError):
        path.rmdir()


def _remove(top: int, name: str) -> None:
    """One entry of the top; the directories in it become entries of the top."""
    try:
        os.unlink(name, dir_fd=top)
    except FileNotFoundError:  # somebody else removes it too
        return
    except IsADirectoryError:
        with suppress(FileNotFoundError):
            _empty(top, name)
            os.rmdir(name, dir_fd=top)


def _empty(top: int, name: str) -> None:
    directory = _open(top, name)
    try:
        for child in os.listdir(directory):
            try:
                os.unlink(child, dir_fd=directory)
            except IsADirectoryError:
                _allow(directory, child)  # to write its `..`
                os.rename(child, secrets.token_hex(12), src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)


def _open(top: int, name: str) -> int:
    _allow(top, name)
    return os.open(name, _DIRECTORY, dir_fd=top)


def _allow(parent: int, name: str) -> None:
    """Give the owner all rights, through an open handle: no link is followed."""
    handle = os.open(name, _HANDLE, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
