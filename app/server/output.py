"""What an answer is written to, in place of its socket."""

from __future__ import annotations

import select
import socket

SEND_SECONDS = 10.0
"""How long a client may take to make room for more of its answer."""


class Output:
    """Sends an answer's head together with the first part of its body.

    It stands where gunicorn expects a socket, and has of one what gunicorn uses.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._head = b""
        self._begun = False

    def sendall(self, data: bytes) -> None:
        """Raises OSError, and TimeoutError for a client that does not read."""
        if not self._begun:
            self._begun, self._head = True, data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._send(data)

    def flush(self) -> None:
        """An answer without a body is sent only now."""
        if self._head:
            self.sendall(b"")

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                _await_room(self._socket)

    def send(self, data: bytes) -> int:
        """Drops it: only "100 Continue" comes here, which the client has got already."""
        return len(data)

    def gettimeout(self) -> float:
        """The socket never blocks."""
        return 0.0


def _await_room(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    if not poll.poll(SEND_SECONDS * 1000):
        raise TimeoutError(f"the client read nothing for {SEND_SECONDS:g} s")
