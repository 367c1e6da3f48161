"""Where a request ends. Only for waiting: gunicorn checks each byte again when it is there."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from gunicorn.http.body import ChunkedReader
from gunicorn.http.unreader import Unreader

_LONGEST_LINE = 8190  # bytes of a chunk's first line, as for gunicorn


class Received(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """Feeds gunicorn's parser with what has come so far; then it is at its end."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__()
        self.parts = deque(parts)

    def chunk(self, *_: Any) -> bytes:
        return self.parts.popleft() if self.parts else b""

    @property
    def empty(self) -> bool:
        """Whether the parser has taken all of it."""
        return not self.parts and not self.buf.getvalue()


class Ending(Protocol):
    """How a body ends."""

    size: int
    """Bytes of the body that have come, without what frames them."""

    def feed(self, data: bytes) -> int:
        """How many bytes of `data`, which comes next, end the body; -1: it goes on after them."""


class Counted:
    """A body whose length was announced."""

    def __init__(self, length: int) -> None:
        self.size = 0
        self._length = length

    def feed(self, data: bytes) -> int:
        left = self._length - self.size
        self.size += min(left, len(data))
        return left if left <= len(data) else -1


class Chunked:
    """A body in chunks. One that is malformed ends at once: the parser will say so."""

    def __init__(self) -> None:
        self.size = 0
        self._skip = 0  # bytes of a chunk and its line break that are still to come
        self._line = b""
        self._trailers = False

    def feed(self, data: bytes) -> int:
        at = 0
        while at < len(data):
            if self._skip:
                at += self._pass(len(data) - at)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                return len(data) if len(self._line) > _LONGEST_LINE else -1
            line, self._line = self._line + data[at:end], b""
            at = end + 1
            if self._ends(line.removesuffix(b"\r")):
                return at
        return -1

    def _ends(self, line: bytes) -> bool:
        if self._trailers:
            return not line
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return True
        self._trailers = size == 0
        self._skip = size + len(b"\r\n") if size else 0
        return size < 0

    def _pass(self, available: int) -> int:
        """Over a chunk and its line break, or as much of them as there is."""
        step = min(self._skip, available)
        self.size += min(step, max(0, self._skip - len(b"\r\n")))
        self._skip -= step
        return step


def ending_of(message: Any) -> tuple[Ending, int]:
    """How the body of gunicorn's Request ends, and the length that it announces, else 0."""
    reader = message.body.reader
    if isinstance(reader, ChunkedReader):
        return Chunked(), 0
    return Counted(reader.length), reader.length
