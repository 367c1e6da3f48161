"""One client: what has come from it, and whether that is a request yet.

    connection.receive()                    what is there; False at its end
    while request := connection.request():  one after the other, as soon as they are whole
        ...                                 answer it
        connection.finish()                 before the next

A body that is too long is not kept, but read to its end: many clients listen only then.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gunicorn.http.message import Request

from .framing import Ending, Received, ending_of

HEAD_SECONDS = 10.0
"""From a connection, or a request's first byte, to the end of the request's head."""
BODY_SECONDS = 30.0
"""From there to the end of its body."""
LINGER_SECONDS = 2.0
"""After the last answer: for the client to stop sending, and hang up."""
LARGE = 64 * 1024
"""Bytes; more of a request than these is not held for any number of clients."""
MAX_DISCARDED = 64 * 1024 * 1024
"""Bytes of a body that is too long; who sends more is answered, heard or not."""

_RECEIVE = 64 * 1024
_READ_AHEAD = 128 * 1024  # bytes that an application asks for, to see that there are too many
_MAX_HEAD = 64 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = b"\r\n\r\n"


class HeadTooLong(Exception):
    """More than any head has, and no end of it."""


@dataclass(kw_only=True, slots=True)
class Incoming:
    """A request whose head is there."""

    message: Any
    """Gunicorn's Request."""
    received: Received
    """What `message` reads its body from."""
    ending: Ending
    length: int
    """Bytes of its body, where they were announced; else 0."""
    complete: bool = False
    """Whether all of its body is there."""


class Connection:
    """Belongs to one thread at a time, but for `close`."""

    def __init__(self, client: socket.socket, address: Any, cfg: Any, max_body: int) -> None:
        client.setblocking(False)
        self.socket = client
        self.number = client.fileno()
        self.address = address
        self.server = client.getsockname()
        self.since = monotonic()
        """When it came, began to send its request, or was answered last."""
        self.deadline = self.since + HEAD_SECONDS
        self.lingering = False
        self.charged = 0
        """Bytes that it has of the budget for long bodies."""
        self.paused = False
        """Whether it waits for some of that."""
        self.closed = False
        self._cfg = cfg
        self._max_body = max_body
        self._data = bytearray()
        self._searched = 0
        self._incoming: Incoming | None = None
        self._body = 0  # bytes that have come of it, with what frames them
        self._kept = 0
        self._served = 0

    @property
    def begun(self) -> bool:
        """Whether a part of a request is there."""
        return bool(self._data) or self._incoming is not None

    @property
    def held(self) -> int:
        """Bytes of it that are kept."""
        return len(self._data) + self._kept

    def receive(self) -> bool:
        """Take over what has come; False when the client has hung up. Raises OSError."""
        try:
            data = self.socket.recv(_RECEIVE)
        except BlockingIOError:
            return True
        if not data:
            return False
        if self.lingering:
            return True
        if not self.begun:
            self.since = monotonic()
            self.deadline = self.since + HEAD_SECONDS
        if self._incoming is None:
            self._data += data
        else:
            self._take(self._incoming, data)
        return True

    def request(self) -> Incoming | None:
        """The next one that is whole. Raises gunicorn's errors, and HeadTooLong."""
        if self._incoming is None and not self._parse():
            return None
        incoming = self._incoming
        return incoming if incoming is not None and incoming.complete else None

    def _parse(self) -> bool:
        """Whether a head is there now."""
        end = self._data.find(_HEAD_END, max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._data)
            if self._searched > _MAX_HEAD:
                raise HeadTooLong
            return False
        end += len(_HEAD_END)
        received = Received(bytes(self._data[:end]))
        rest = bytes(self._data[end:])
        self._data.clear()
        self._searched = 0
        self._served += 1
        message = Request(self._cfg, received, self.address, self._served)
        ending, length = ending_of(message)
        self._incoming = Incoming(message=message, received=received, ending=ending, length=length)
        self._take(self._incoming, rest)
        if not self._incoming.complete:
            self._invite(self._incoming)
        return True

    def _take(self, incoming: Incoming, data: bytes) -> None:
        """More of the body, and perhaps the beginning of the next request."""
        wanted = self._wants_more(incoming)
        end = incoming.ending.feed(data)
        if end >= 0:
            incoming.complete = True
            self._data += data[end:]
            data = data[:end]
        self._body += len(data)
        if wanted and data:
            incoming.received.parts.append(data)
            self._kept += len(data)
        if self._body > MAX_DISCARDED:
            self._give_up(incoming)

    def _wants_more(self, incoming: Incoming) -> bool:
        """Until it is clear that the body is too long, or that it is more frame than body."""
        if incoming.length > self._max_body:
            return False
        enough = self._max_body + _READ_AHEAD
        return incoming.ending.size <= enough and self._kept <= 2 * enough

    def _invite(self, incoming: Incoming) -> None:
        """To send the body, if it is to be read at all."""
        self.deadline = monotonic() + BODY_SECONDS
        if not any(name == "EXPECT" for name, _ in incoming.message.headers):
            return
        if incoming.length > self._max_body:
            self._give_up(incoming)
        else:
            self.socket.send(_CONTINUE)

    @staticmethod
    def _give_up(incoming: Incoming) -> None:
        incoming.complete = True
        incoming.message.must_close = True

    def finish(self) -> bool:
        """The request was answered; whether another one may follow."""
        incoming, self._incoming = self._incoming, None
        assert incoming is not None
        truncated = self._kept < self._body
        self._body = self._kept = 0
        self.since = monotonic()
        self.deadline = self.since + self._cfg.keepalive
        return not truncated and _consumed(incoming)

    def stop_reading(self) -> None:
        """Tell the client that nothing more comes; what it still sends is dropped."""
        self.lingering = True
        self._incoming = None
        self._data.clear()
        self.deadline = monotonic() + LINGER_SECONDS
        self.socket.shutdown(socket.SHUT_WR)

    def has_news(self) -> bool:
        """Whether something has come that was not received yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def forget(self) -> None:
        """Drop what has come: else hanging up would take our last answer back. Raises OSError."""
        self.socket.recv(_RECEIVE)

    def tell(self, status: str) -> None:
        """A last answer from us and not from the application, if there is room for it."""
        text = status.lower()
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8"
        self.socket.send(f"{head}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    def close(self) -> None:
        """Idempotent."""
        self.closed = True
        with suppress(OSError):
            self.socket.close()


def _consumed(incoming: Incoming) -> bool:
    """Whether gunicorn agrees on where the request ended; what the application left is read."""
    try:
        while incoming.message.body.read(LARGE):
            pass
    except Exception:  # its framing is broken: nobody knows where the next request begins
        return False
    return incoming.received.empty
