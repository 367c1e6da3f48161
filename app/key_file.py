"""The file of the API keys: read again while it changes, and edited by `hades keys`."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import monotonic

from app.keys import ApiKey, KeyInvalid, KeyRing, format_line, parse_line
from executors.errors import HadesError

CHECK_SECONDS = 1.0
"""How often the file is looked at, at most."""

_PRIVATE = 0o600

logger = logging.getLogger(__name__)


class KeyFileError(HadesError):
    """The file can't be used; the text names it, and the line. It quotes nothing of the line."""


def read_keys(path: Path) -> KeyRing:
    """Raises KeyFileError."""
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {os.strerror(error.errno or 0)}") from error


def _parse(path: Path, content: bytes) -> KeyRing:
    return KeyRing(key for _, key in _lines(path, content) if key is not None)


def _lines(path: Path, content: bytes) -> list[tuple[str, ApiKey | None]]:
    """Each line, and the key that it describes."""
    found: list[tuple[str, ApiKey | None]] = []
    first: dict[bytes, int] = {}
    for number, raw in enumerate(content.splitlines(), 1):
        try:
            line = raw.decode()
            key = parse_line(line)
            if key is not None and first.setdefault(key.digest, number) != number:
                raise KeyInvalid(f"the same key as in line {first[key.digest]}")
        except UnicodeDecodeError:
            raise KeyFileError(f"{path}, line {number}: it is not UTF-8") from None
        except KeyInvalid as error:
            raise KeyFileError(f"{path}, line {number}: {error}") from None
        found.append((line, key))
    return found


class WatchedKeys:
    """The keys of a file that others change. A file that is broken leaves the keys as they were."""

    def __init__(self, path: Path, ticks: Callable[[], float] = monotonic) -> None:
        """Raises KeyFileError. `ticks` is in seconds."""
        self._path = path
        self._ticks = ticks
        self._looking = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._trouble = ""
        self._next_look = ticks() + CHECK_SECONDS
        self._seen = self._state()
        self._keys = read_keys(path)

    def current(self) -> KeyRing:
        """At most a second old."""
        if self._ticks() >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
                self._next_look = self._ticks() + CHECK_SECONDS
            finally:
                self._looking.release()
        return self._keys

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._keys, self._trouble = read_keys(self._path), ""
            logger.info("The API keys were read again: %d.", len(self._keys))
        except KeyFileError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("The API keys stay as they were: %s", error)
        self._seen = state

    def _state(self) -> tuple[int, ...]:
        """What changes with the file: also with one that takes its place, behind any link."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def add_key(path: Path, key: ApiKey, *, another: bool = False) -> None:
    """Append the key; makes the file. `another`: the name may have a key already.

    Raises KeyFileError, KeyInvalid.
    """
    with _editing(path, create=True) as (content, replace):
        if not another and any(key.name == known.name for known in _parse(path, content)):
            raise KeyInvalid(f"{key.name} has a key already")
        if content and not content.endswith(b"\n"):
            content += b"\n"
        replace(content + format_line(key).encode() + b"\n")


def remove_keys(path: Path, name: str, key_id: str = "") -> int:
    """Remove the keys of the name, or the one with this id; returns how many there were.

    Raises KeyFileError.
    """
    with _editing(path) as (content, replace):
        lines = _lines(path, content)
        kept = [line for line, key in lines if not _meant(key, name, key_id)]
        if len(kept) < len(lines):
            replace("".join(f"{line}\n" for line in kept).encode())
        return len(lines) - len(kept)


def _meant(key: ApiKey | None, name: str, key_id: str) -> bool:
    return key is not None and key.name == name and key_id in ("", key.id)


@contextmanager
def _editing(
    path: Path, *, create: bool = False
) -> Iterator[tuple[bytes, Callable[[bytes], None]]]:
    """The content, and what replaces it. One editor at a time; readers see old or new, no half."""
    path = path.resolve()
    try:
        directory = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"{path.parent}: {os.strerror(error.errno or 0)}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        content = b"" if create and not path.exists() else _read(path)
        yield content, lambda changed: _replace(path, changed, directory)
    finally:
        os.close(directory)


def _replace(path: Path, content: bytes, directory: int) -> None:
    """Mode and owner stay as they are; a new file is its owner's alone."""
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                _take_after(file.fileno(), path)
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        os.fsync(directory)
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {os.strerror(error.errno or 0)}") from error


def _take_after(descriptor: int, path: Path) -> None:
    if not path.exists():
        os.fchmod(descriptor, _PRIVATE)
        return
    found = path.stat()
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    os.fchmod(descriptor, found.st_mode & 0o777)
