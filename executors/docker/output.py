"""Reads the stream that the Engine sends for an attached container.

It is a sequence of frames: one byte for the stream, three of padding, four for the length, and
then that many bytes of output.
"""

from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

from docker import APIClient

from executors.base import OutputStream, Sink
from executors.deadline import Deadline

HEADER = struct.Struct(">BxxxL")
CHUNK = 64 * 1024
"""The most bytes that the sink gets at once."""


@contextmanager
def attached(api: APIClient, container: str) -> Iterator[socket.socket]:
    """The output of a container that has not been started yet: nothing of it can be missed."""
    stream = api.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
    with stream, closing(stream._response):  # the stream alone would leave the connection open
        with socket.socket(fileno=os.dup(stream.fileno())) as own:
            yield own


class Frames(io.RawIOBase):
    """A socket as a file whose reads fail with TimeoutError once the deadline is over."""

    def __init__(self, connection: socket.socket, deadline: Deadline, grace: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._grace = grace

    def readable(self) -> bool:
        """As io asks."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As io asks; 0 at the end of the stream."""
        self._connection.settimeout(self._deadline.left(self._grace))
        return self._connection.recv_into(buffer)


def copy(connection: socket.socket, sink: Sink, deadline: Deadline, grace: float) -> None:
    """Hand everything to `sink` until the stream ends.

    Raises TimeoutError when it has not ended `grace` seconds after `deadline`, ConnectionError when
    it breaks off inside a frame.
    """
    with io.BufferedReader(Frames(connection, deadline, grace), CHUNK) as frames:
        while header := frames.read(HEADER.size):
            if len(header) < HEADER.size:
                raise ConnectionError("the stream ended inside a frame")
            number, size = HEADER.unpack(header)
            stream = OutputStream.STDERR if number == 2 else OutputStream.STDOUT
            _copy_frame(frames, sink, stream, size)


def _copy_frame(
    frames: io.BufferedReader[Frames], sink: Sink, stream: OutputStream, size: int
) -> None:
    while size:
        data = frames.read1(min(size, CHUNK))
        if not data:
            raise ConnectionError("the stream ended inside a frame")
        sink.write(stream, data)
        size -= len(data)
