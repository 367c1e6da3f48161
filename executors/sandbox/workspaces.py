"""The directories of attempts.

    <root>/<job id>-<attempt>/shared    what the steps see as /shared
    <root>/<job id>-<attempt>/base      the topmost layer of their roots: `skeleton`
    <root>/<job id>-<attempt>/host      the same when the host's userland is the root: `host`
    <root>/.<random>                    one that is being made

Each is locked by its worker for as long as it lives: one that nobody has locked belongs to a worker
that died.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from executors.sandbox.program import make_passable
from executors.sandbox.removal import remove_attempt
from executors.sandbox.skeleton import write_skeleton

logger = logging.getLogger(__name__)

_HANDLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAME = re.compile(r"([A-Za-z0-9_-]+)-([0-9]+)")
_DRAFT = re.compile(r"\.[0-9a-f]{16}")


class Workspaces:
    """For many threads. Everything may raise OSError."""

    def __init__(self, root: Path, owner: int | None) -> None:
        """`owner`: uid and gid of what the steps may write; None: whoever runs."""
        self.root = root
        self._owner = owner

    @contextmanager
    def create(self, job_id: str, attempt: int) -> Iterator[Path]:
        """A new attempt's directory, locked until the block is left and it is removed.

        What can't be removed then is logged, and left to whoever looks for orphans.
        """
        name = f"{job_id}-{attempt}"
        if not _NAME.fullmatch(name):
            raise OSError(f"no directory can be named after job {job_id!r}")
        make_passable(self.root)
        with ExitStack() as stack:
            directory = self._draft(stack).rename(self.root / name)
            try:
                self._fill(directory)
                yield directory
            finally:
                _remove_or_log(directory)

    def of_job(self, job_id: str) -> list[Path]:
        """The directories of all attempts of a job."""
        return [path for path, owner in self._all() if owner == job_id]

    def remove_orphans(self, end_processes: Callable[[Path], None]) -> int:
        """Remove what workers left that have died, and say how much; what can't be is logged.

        `end_processes` is called with each directory before it goes.
        """
        return sum(self._remove_if_orphan(path, end_processes) for path in self._everything())

    def _remove_if_orphan(self, path: Path, end_processes: Callable[[Path], None]) -> bool:
        try:
            with _locked(path) as is_ours:
                if is_ours:
                    end_processes(path)
                    remove_attempt(path)
                return is_ours
        except OSError:
            logger.exception("an orphan could not be removed", extra={"directory": str(path)})
            return False

    def _draft(self, stack: ExitStack) -> Path:
        """A new directory that is locked with the stack. Before it is, it looks like an orphan's,
        and may be taken away."""
        while True:
            draft = self.root / f".{secrets.token_hex(8)}"
            draft.mkdir()
            if stack.enter_context(_locked(draft)) and draft.exists():
                return draft

    def _fill(self, directory: Path) -> None:
        directory.chmod(0o711)
        write_skeleton(directory / "base", self._owner)
        shared = directory / "shared"
        shared.mkdir()
        shared.chmod(0o755)
        if self._owner is not None:
            os.chown(shared, self._owner, self._owner)

    def _all(self) -> list[tuple[Path, str]]:
        """Each attempt's directory, and whose job's it is."""
        named = ((path, _NAME.fullmatch(path.name)) for path in self._everything())
        return [(path, match[1]) for path, match in named if match]

    def _everything(self) -> list[Path]:
        """Drafts too."""
        if not self.root.is_dir():
            return []
        paths = self.root.iterdir()
        return [path for path in paths if _NAME.fullmatch(path.name) or _DRAFT.fullmatch(path.name)]


def _remove_or_log(directory: Path) -> None:
    try:
        remove_attempt(directory)
    except OSError:
        logger.exception("a workspace could not be removed", extra={"directory": str(directory)})


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Whether the directory is there, was free, and is ours now until the block is left."""
    try:
        handle = os.open(directory, _HANDLE)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)
