"""Reading tar archives that may be made to hurt their reader."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from executors.sandbox.blobs import ImageInvalid, reading_errors

MAX_HEADER = 64 * 1024
"""Bytes of an extended header (long names, times, attributes); Python holds it in memory."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class CheckedTarInfo(tarfile.TarInfo):
    """Refuses sizes that make `tarfile` run backwards or read a whole archive into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> CheckedTarInfo:
        """Called by `tarfile` for every header block."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > MAX_HEADER):
            raise ImageInvalid(f"its archive has a header with the size {info.size}")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise ImageInvalid("its archive has a sparse file")
        return info

    def _proc_gnusparse_10(self, *_: object) -> None:
        """`tarfile` would hold the map of such a file in memory, however long it is."""
        raise ImageInvalid("its archive has a sparse file")


@contextmanager
def tar_errors() -> Iterator[None]:
    """Turns what `tarfile` raises at a broken archive into ImageInvalid."""
    try:
        with reading_errors():
            yield
    except (tarfile.TarError, RecursionError) as error:
        raise ImageInvalid(f"its archive is damaged: {error}") from error


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All entries in order; `tarfile` forgets each when the next is asked for."""
    offset = -1
    while (member := _next(tar)) is not None:
        if member.size < 0 or tar.offset <= offset:
            raise ImageInvalid("its archive is damaged: an entry has a negative size")
        if "\0" in member.name + member.linkname:
            raise ImageInvalid("its archive has a name with a NUL character")
        offset = tar.offset
        yield member
        cast(Any, tar).members.clear()
        cast(Any, tar).pax_headers.clear()


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:
        raise ImageInvalid(f"its archive is damaged: {error}") from error
