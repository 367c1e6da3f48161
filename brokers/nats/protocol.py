"""The NATS client protocol as bytes: what is read is parsed, what is sent is composed. No I/O.

A control line ends with CRLF; `MSG` and `HMSG` announce how many bytes follow theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CRLF = b"\r\n"
MAX_LINE = 1_048_576
"""Bytes of a control line. An INFO of a large cluster is long; more than this is garbage."""

_HEADER_LINE = b"NATS/1.0\r\n"


class ProtocolError(ConnectionError):
    """The other side does not speak NATS, or said `-ERR`."""


class Arrival:
    """A message that was delivered to one of our subscriptions."""

    __slots__ = ("data", "head", "reply", "sid", "subject")

    def __init__(self, subject: str, sid: int, reply: str, head: bytes, data: bytes) -> None:
        self.subject = subject
        self.sid = sid
        self.reply = reply
        self.head = head
        self.data = data

    @property
    def status(self) -> str:
        """What the server says instead of a message, like `404`; empty for a message."""
        return self.head[9:12].decode() if self.head[8:9] == b" " else ""

    @property
    def headers(self) -> dict[str, str]:
        """Names as they were sent; of one that occurs twice, the last value."""
        lines = self.head.decode(errors="replace").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name: value.strip() for name, _, value in pairs}


class Control:
    """A line that carries no message: `INFO`, `PING`, `PONG`, `+OK`, `-ERR`."""

    __slots__ = ("argument", "verb")

    def __init__(self, verb: str, argument: str) -> None:
        self.verb = verb
        self.argument = argument


class Parser:
    """Bytes in, in pieces of any size; whole items out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Arrival | Control]:
        """What has become complete. Raises ProtocolError; then the parser is of no more use."""
        buffer = self._rest + data if self._rest else data
        items: list[Arrival | Control] = []
        at = 0
        while (end := buffer.find(CRLF, at)) >= 0:
            line = buffer[at:end]
            if line[:4] == b"HMSG" or line[:3] == b"MSG":
                item, after = _arrival(line, buffer, end + 2)
                if item is None:
                    break
                items.append(item)
                at = after
            else:
                items.append(_control(line))
                at = end + 2
        else:
            if len(buffer) - at > MAX_LINE:
                raise ProtocolError("a line that never ends")
        self._rest = buffer[at:] if at else buffer
        return items


def _arrival(line: bytes, buffer: bytes, start: int) -> tuple[Arrival | None, int]:
    """The message behind `line`, and where the next item begins; None while it is incomplete."""
    verb, *fields = line.split()
    with_headers = verb == b"HMSG"
    count = len(fields) - with_headers
    if count not in (3, 4):
        raise ProtocolError(f"malformed line: {line[:80]!r}")
    try:
        sid, size = int(fields[1]), int(fields[-1])
        head_size = int(fields[-2]) if with_headers else 0
        subject = fields[0].decode()
        reply = fields[2].decode() if count == 4 else ""
    except ValueError as error:
        raise ProtocolError(f"malformed line: {line[:80]!r}") from error
    if not 0 <= head_size <= size:
        raise ProtocolError(f"malformed sizes: {line[:80]!r}")
    stop = start + size
    if len(buffer) < stop + 2:
        return None, start
    if buffer[stop : stop + 2] != CRLF:
        raise ProtocolError("a message that does not end where it should")
    middle = start + head_size
    return Arrival(subject, sid, reply, buffer[start:middle], buffer[middle:stop]), stop + 2


def _control(line: bytes) -> Control:
    verb, _, argument = line.decode(errors="replace").partition(" ")
    verb = verb.upper()
    if verb not in ("INFO", "PING", "PONG", "+OK", "-ERR"):
        raise ProtocolError(f"unknown line: {line[:80]!r}")
    return Control(verb, argument.strip())


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they stand before a payload; empty for none.

    Raises ValueError for a line break, which would begin another header.
    """
    if not headers:
        return b""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header must be one line")
    return _HEADER_LINE + lines.encode() + CRLF


def publication(subject: str, reply: str, head: bytes, data: bytes) -> bytes:
    """One message to the server; `head` is a `header_block`, `reply` may be empty."""
    target = f"{subject} {reply}" if reply else subject
    if head:
        line = f"HPUB {target} {len(head)} {len(head) + len(data)}\r\n".encode()
        return b"".join((line, head, data, CRLF))
    return b"".join((f"PUB {target} {len(data)}\r\n".encode(), data, CRLF))


def subscription(subject: str, sid: int) -> bytes:
    """Take what is published to `subject`."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscription(sid: int) -> bytes:
    """Take no more."""
    return f"UNSUB {sid}\r\n".encode()


def connection(fields: Mapping[str, Any]) -> bytes:
    """Who we are; the first line to the server."""
    return b"CONNECT " + json.dumps(dict(fields)).encode() + CRLF
