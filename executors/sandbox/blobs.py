"""Bytes from outside: how many are let in, and whether they are the ones that were promised."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Protocol, cast

from executors.errors import HadesError
from executors.pulls import Abandoned, GivenUp

CHUNK = 256 * 1024

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_LIBRARIES = ("compression.zstd", "backports.zstd")
"""Python 3.14's own, and the same for older ones; neither is a dependency."""


class ImageInvalid(HadesError):
    """Why an archive, or what a registry sent, can't be used. ImageStore adds of which image."""


class Readable(Protocol):
    """As much of a file as is needed here."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Some bytes that can be had, and what they have to be."""

    open: Callable[[], AbstractContextManager[Readable]]
    digest: str | None = None
    """`sha256:...` of the bytes as stored; None where the format names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """An image that is not unpacked yet, wherever it comes from."""

    references: tuple[str, ...]
    """As written by its maker; may be empty."""
    config: bytes
    layers: tuple[Blob, ...]
    """Lowest first. Opened one after the other, and only if the image is not there yet."""


@dataclass(kw_only=True, slots=True)
class Budget:
    """What one image may still cost. Every method raises ImageInvalid when it is too much, and
    GivenUp when nobody wants it any more."""

    max_bytes: int
    max_entries: int
    abandoned: Abandoned = lambda: False
    packed: int = 0
    read: int = 0
    written: int = 0
    entries: int = 0

    def count_packed(self, size: int) -> None:
        """Bytes that went into a decompressor: some never let anything out."""
        self.packed += size
        self._check(self.packed)

    def count_read(self, size: int) -> None:
        """Bytes that came out of a decompressor."""
        self.read += size
        self._check(self.read)

    def count_written(self, size: int) -> None:
        """Bytes that are about to become a file's (a sparse file has more than were read)."""
        self.written += size
        self._check(self.written)

    def count_entry(self) -> None:
        """One more file, directory or link."""
        self.entries += 1
        self._check(0)
        if self.entries > self.max_entries:
            raise ImageInvalid(f"it has more than {self.max_entries} files")

    def _check(self, size: int) -> None:
        if self.abandoned():
            raise GivenUp
        if size > self.max_bytes:
            raise ImageInvalid(f"it is larger than {self.max_bytes} bytes when unpacked")


class HashingReader(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, source: Readable, count: Callable[[int], None] | None = None) -> None:
        self._source = source
        self._count = count
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """True: this is what makes it a stream for `io`."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """As of the source, never more than a chunk."""
        data = self._source.read(CHUNK if size < 0 else size)
        self._hash.update(data)
        if self._count:
            self._count(len(data))
        return data

    def verify(self, digest: str | None, what: str) -> None:
        """Read what is left, then raise ImageInvalid unless all of it has this digest."""
        while self.read(CHUNK):
            pass
        actual = f"sha256:{self._hash.hexdigest()}"
        if digest is not None and actual != digest:
            raise ImageInvalid(f"its {what} has the digest {actual}, not {digest}")


@contextmanager
def open_layer(blob: Blob, diff_id: str, budget: Budget) -> Iterator[Readable]:
    """The layer's tar, decompressed; leaving the block checks both of its digests.

    `diff_id` is the config's promise of the decompressed bytes. Raises ImageInvalid.
    """
    with blob.open() as source, reading_errors():
        packed = HashingReader(source, budget.count_packed)
        unpacked = HashingReader(decompressed(packed), budget.count_read)
        yield unpacked
        unpacked.verify(diff_id, "decompressed layer")
        packed.verify(blob.digest, "layer")


def checked(data: bytes, limit: int, digest: str | None, what: str) -> bytes:
    """The same bytes, if they are not too many and have this digest. Raises ImageInvalid."""
    if len(data) > limit:
        raise ImageInvalid(f"its {what} is larger than {limit} bytes")
    actual = sha256(data)
    if digest is not None and actual != digest:
        raise ImageInvalid(f"its {what} has the digest {actual}, not {digest}")
    return data


def sha256(data: bytes) -> str:
    """The digest as images write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turns what the decompressors raise at broken data into ImageInvalid."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ImageInvalid(f"its data is damaged: {error}") from error


def decompressed(source: Readable) -> Readable:
    """By the first bytes and not by the media type, which registries get wrong."""
    start = source.read(4)
    while 0 < len(start) < 4 and (more := source.read(4 - len(start))):
        start += more
    whole = _Prefixed(start, source)
    if start.startswith(_GZIP):
        return cast(Readable, gzip.GzipFile(fileobj=cast(IO[bytes], whole)))
    return _unzstd(whole) if start == _ZSTD else whole


def _unzstd(source: Readable) -> Readable:
    for name in _ZSTD_LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        return _Guarded(library.open(source), library.ZstdError)
    raise ImageInvalid("it is compressed with zstd, and no library for it is installed")


class _Guarded:
    """A decompressor whose own error becomes ours."""

    def __init__(self, source: Readable, error: type[Exception]) -> None:
        self._source = source
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._source.read(size)
        except self._error as error:
            raise ImageInvalid(f"its data is damaged: {error}") from error


class _Prefixed:
    """A stream of which some bytes have been read already."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if not self._start:
            return self._rest.read(size)
        cut = len(self._start) if size < 0 else size
        data, self._start = self._start[:cut], self._start[cut:]
        return data
