"""A directory tree that hostile hands may have filled.

Everything happens relative to open directories, one name at a time and never through a symbolic
link. A link is read and followed here instead, the way a container would see it: `/` is the tree's
root, and `..` ends there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from executors.sandbox.blobs import ImageInvalid

MAX_DEPTH = 200
MAX_LINKS = 40

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Names = tuple[str, ...]
"""A path below the root, without links and `..`; empty: the root itself."""


def split(path: str) -> Names:
    """The names of a path, absolute or not; `..` is left for the caller to judge."""
    return tuple(name for name in path.split("/") if name not in ("", "."))


@dataclass(slots=True)
class Folder:
    """A directory of the tree, open."""

    fd: int
    names: Names

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def mode(self, name: str) -> int | None:
        """Type and permissions of what has this name here; None when nothing has."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None


class Tree:
    """The tree below one directory. Not for several threads."""

    def __init__(self, root: Path, *, made: Callable[[Folder, str], None] | None = None) -> None:
        """`made` is called for every directory that `folder(create=True)` had to make."""
        self._root = os.open(root, _DIRECTORY)
        self._made = made

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def exact(self, names: Names) -> Folder:
        """The directory with exactly these names. Raises OSError, also when one is a link."""
        fd = os.dup(self._root)
        for name in names:
            fd = _descend(fd, name)
        return Folder(fd, names)

    def folder(self, path: Names, *, create: bool = False) -> Folder:
        """The directory that the path leads to, links followed inside the tree.

        `create` makes what is missing. Raises OSError, and ImageInvalid when it is too deep.
        """
        walk = _Walk(list(reversed(path)))
        folder = self.exact(())
        try:
            while walk.pending:
                folder = self._step(folder, walk, create)
        except BaseException:
            os.close(folder.fd)
            raise
        return folder

    def open_file(self, path: Names) -> IO[bytes]:
        """A regular file for reading, links followed inside the tree. Raises OSError."""
        for _ in range(MAX_LINKS):
            if not path or path[-1] == "..":
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            with self.folder(path[:-1]) as folder:
                if not stat.S_ISLNK(folder.mode(path[-1]) or 0):
                    return _open_regular(folder, path[-1])
                target = os.readlink(path[-1], dir_fd=folder.fd)
                path = (*(() if target.startswith("/") else folder.names), *split(target))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _step(self, folder: Folder, walk: _Walk, create: bool) -> Folder:
        """One name further. Closes `folder` only when it returns another."""
        name = walk.pending.pop()
        if name == "..":
            return self._instead(folder, folder.names[:-1])
        mode = folder.mode(name)
        if mode is not None and stat.S_ISLNK(mode):
            return self._follow(folder, name, walk)
        if mode is None and create:
            os.mkdir(name, 0o700, dir_fd=folder.fd)
            if self._made:
                self._made(folder, name)
        if len(folder.names) >= MAX_DEPTH:
            raise ImageInvalid(f"its directories are nested deeper than {MAX_DEPTH}")
        fd = os.open(name, _DIRECTORY, dir_fd=folder.fd)
        os.close(folder.fd)
        return Folder(fd, (*folder.names, name))

    def _follow(self, folder: Folder, name: str, walk: _Walk) -> Folder:
        target = os.readlink(name, dir_fd=folder.fd)
        walk.follow(target)
        return self._instead(folder, ()) if target.startswith("/") else folder

    def _instead(self, folder: Folder, names: Names) -> Folder:
        other = self.exact(names)
        os.close(folder.fd)
        return other


@dataclass(slots=True)
class _Walk:
    """The names that are still to go, next one last."""

    pending: list[str]
    links: int = 0

    def follow(self, target: str) -> None:
        """Go where the link points first. A link to a link to itself ends here."""
        self.links += 1
        if self.links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        self.pending.extend(reversed(split(target)))


def _descend(fd: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _open_regular(folder: Folder, name: str) -> IO[bytes]:
    fd = os.open(name, _FILE, dir_fd=folder.fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(fd, "rb")


def remove(fd: int, name: str) -> None:
    """Delete whatever has this name in the open directory; nothing there is no error.

    A directory that its owner may not enter or change is made accessible first.
    """
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        with _accessible(fd, name) as inner:
            for child in os.listdir(inner):
                remove(inner, child)
        os.rmdir(name, dir_fd=fd)


def remove_tree(path: Path) -> None:
    """`remove` for a path whose parent is trusted."""
    with opened(path.parent) as fd:
        remove(fd, path.name)


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """An open directory. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _accessible(fd: int, name: str) -> Iterator[int]:
    """The directory of this name, open, with all rights for its owner.

    Its mode is changed through the open descriptor: a link that takes its place is not followed.
    """
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{handle}", mode | stat.S_IRWXU)
        inner = os.open(".", _DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        yield inner
    finally:
        os.close(inner)
