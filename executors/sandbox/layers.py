"""Unpacks layers into one root file system.

    with Unpacker(directory, owner=..., budget=...) as unpacker:
        unpacker.apply(tar)         once a layer, lowest first
        unpacker.finish()           then, once: the modes of directories

What a layer says is turned into what a container would see, as Docker does it: a later entry
replaces an earlier one (a directory stays when a directory comes), `.wh.name` hides what lower
layers had, and parents that are links are followed inside the root. What a step has no business
with is left out: device nodes, fifos, setuid and setgid bits, owners, extended attributes.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, cast

from executors.sandbox.blobs import CHUNK, Budget, ImageInvalid, Readable
from executors.sandbox.tars import CheckedTarInfo, members, tar_errors
from executors.sandbox.tree import Folder, Names, Tree, remove, split

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

_MODES = 0o1777
_DEFAULT_MODE = 0o755
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TIME = 2**33


class Unpacker:
    """Fills one directory. Everything in it belongs to `owner` (uid and gid), or to who runs."""

    def __init__(self, root: Path, *, owner: int | None, budget: Budget) -> None:
        """`root` has to exist and to be empty."""
        self._owner = None if owner == os.geteuid() else owner
        self._budget = budget
        self._modes: dict[Names, int] = {(): _DEFAULT_MODE}
        self._of_this_layer: set[Names] = set()
        self._last: tuple[Names, Folder] | None = None
        self._tree = Tree(root, made=self._made)
        with self._tree.exact(()) as folder:
            self._own(folder.fd)

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_last()
        self._tree.__exit__()

    def apply(self, stream: Readable) -> None:
        """One layer. Raises ImageInvalid, and OSError for the machine's troubles."""
        self._of_this_layer.clear()
        with tar_errors(), _open_tar(stream) as tar:
            for member in members(tar):
                self._budget.count_entry()
                self._entry(tar, member)

    def finish(self) -> None:
        """Give all directories their modes, inner ones first: an outer may forbid the way in."""
        self._forget_last()
        for names in sorted(self._modes, key=len, reverse=True):
            try:
                folder = self._tree.exact(names)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with folder:
                os.fchmod(folder.fd, self._modes[names])

    def _entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        names = split(member.name)
        if ".." in names:
            raise ImageInvalid(f"an entry leaves the root: {member.name!r}")
        if not names:
            self._root_entry(member)
        elif names[-1].startswith(WHITEOUT):
            self._whiteout(names)
        else:
            self._place(tar, member, self._folder(names[:-1]), names[-1])

    def _root_entry(self, member: tarfile.TarInfo) -> None:
        if not member.isdir():
            raise ImageInvalid("an entry replaces the root")
        self._modes[()] = member.mode & _MODES | stat.S_IRWXU

    def _place(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Folder, name: str
    ) -> None:
        if member.islnk():
            self._hard_link(member, folder, name)
        elif member.isdir():
            self._directory(member, folder, name)
        else:
            self._clear(folder, name)
            if member.issym():
                os.symlink(member.linkname, name, dir_fd=folder.fd)
                self._own(name, folder)
            elif member.isreg():
                self._file(tar, member, folder, name)
        self._mark((*folder.names, name))

    def _directory(self, member: tarfile.TarInfo, folder: Folder, name: str) -> None:
        if not stat.S_ISDIR(folder.mode(name) or 0):
            self._clear(folder, name)
            os.mkdir(name, 0o700, dir_fd=folder.fd)
            self._own(name, folder)
        self._modes[(*folder.names, name)] = member.mode & _MODES

    def _file(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Folder, name: str
    ) -> None:
        self._budget.count_written(member.size)
        source = tar.extractfile(member)
        assert source is not None  # it is for everything that isreg()
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder.fd)
        with os.fdopen(fd, "wb", buffering=0) as file, source:
            while data := source.read(CHUNK):
                file.write(data)
            self._own(fd)
            os.fchmod(fd, member.mode & _MODES)
            time = member.mtime if 0 <= member.mtime < _MAX_TIME else 0
            os.utime(fd, (time, time))

    def _hard_link(self, member: tarfile.TarInfo, folder: Folder, name: str) -> None:
        target = split(member.linkname)
        if not target or ".." in target:
            raise ImageInvalid(f"a hard link leaves the root: {member.linkname!r}")
        with self._tree.folder(target[:-1]) as home:
            if (home.names, target[-1]) == (folder.names, name):
                return
            mode = home.mode(target[-1])
            if mode is None or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise ImageInvalid(f"a hard link to what is no file: {member.linkname!r}")
            self._clear(folder, name)
            os.link(
                target[-1],
                name,
                src_dir_fd=home.fd,
                dst_dir_fd=folder.fd,
                follow_symlinks=False,
            )

    def _whiteout(self, names: Names) -> None:
        try:
            folder = self._tree.folder(names[:-1])
        except (FileNotFoundError, NotADirectoryError):
            return
        hidden = names[-1].removeprefix(WHITEOUT)
        with folder:
            if names[-1] == OPAQUE:
                self._hide_children(folder)
            elif hidden in ("", ".", ".."):
                raise ImageInvalid(f"a whiteout of nothing: {names[-1]!r}")
            elif not hidden.startswith(WHITEOUT):  # those are notes that a driver left for itself
                self._hide(folder, hidden)

    def _hide_children(self, folder: Folder) -> None:
        for name in os.listdir(folder.fd):
            self._hide(folder, name)

    def _hide(self, folder: Folder, name: str) -> None:
        """Remove it as far as lower layers have it: the order of a layer's entries is free."""
        names = (*folder.names, name)
        if names not in self._of_this_layer:
            self._clear(folder, name)
        elif stat.S_ISDIR(folder.mode(name) or 0):
            with self._tree.exact(names) as inner:
                self._hide_children(inner)

    def _mark(self, names: Names) -> None:
        """This layer has it, and so all directories above it."""
        while names and names not in self._of_this_layer:
            self._of_this_layer.add(names)
            names = names[:-1]

    def _clear(self, folder: Folder, name: str) -> None:
        """Make the name free. A directory or link that goes may change what later paths mean."""
        mode = folder.mode(name)
        if mode is None:
            return
        remove(folder.fd, name)
        if not stat.S_ISREG(mode) and self._last and self._last[1] is not folder:
            self._forget_last()

    def _folder(self, names: Names) -> Folder:
        """The directory for a new entry, made if missing. Valid until the next call."""
        if self._last is None or self._last[0] != names:
            self._forget_last()
            self._last = (names, self._tree.folder(names, create=True))
        return self._last[1]

    def _forget_last(self) -> None:
        if self._last:
            os.close(self._last[1].fd)
            self._last = None

    def _made(self, folder: Folder, name: str) -> None:
        """A parent that no entry has named so far."""
        self._own(name, folder)
        self._modes[(*folder.names, name)] = _DEFAULT_MODE

    def _own(self, what: int | str, folder: Folder | None = None) -> None:
        if self._owner is None:
            return
        if folder is None:
            os.chown(what, self._owner, self._owner)
        else:
            os.chown(what, self._owner, self._owner, dir_fd=folder.fd, follow_symlinks=False)


def _open_tar(stream: Readable) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=cast(IO[bytes], stream),  # `r|` needs no more than read
        mode="r|",
        bufsize=CHUNK,
        tarinfo=CheckedTarInfo,
        encoding="utf-8",
        errors="surrogateescape",
    )
