"""The NATS client protocol as bytes: what is read is parsed, what is sent is composed. No I/O.

A control line ends with CRLF; `MSG` and `HMSG` announce how many bytes follow theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

CRLF = b"\r\n"
NO_RESPONDERS = "503"
"""Status of the answer to a request that reaches nobody."""
MAX_LINE = 1_048_576
"""Bytes of a control line. An INFO of a large cluster is long; more than this is garbage."""
MAX_MESSAGE = 128 * 1_048_576
"""Bytes of a message. Servers take 1 MiB unless told otherwise, and no more than 64."""

_HEADER_LINE = b"NATS/1.0\r\n"
_VISIBLE_BUT_COLON = re.compile(r"[!-9;-~]+")


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
        return self.head[9:12].decode(errors="replace") if self.head[8:9] == b" " else ""

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
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = 0  # bytes without which no item can be complete

    def feed(self, data: bytes) -> list[Arrival | Control]:
        """What has become complete. Raises ProtocolError; then the parser is of no more use."""
        if self._size:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:  # a large message: join its pieces only once
                return []
            data = b"".join(self._pieces)
        return self._parse(data)

    def _parse(self, buffer: bytes) -> list[Arrival | Control]:
        items: list[Arrival | Control] = []
        at = needed = 0
        while (end := buffer.find(CRLF, at)) >= 0:
            line = buffer[at:end]
            if line[:4] == b"HMSG" or line[:3] == b"MSG":
                item, after = _arrival(line, buffer, end + 2)
                if item is None:
                    needed = after - at
                    break
                items.append(item)
                at = after
            else:
                items.append(_control(line))
                at = end + 2
        else:
            if len(buffer) - at > MAX_LINE:
                raise ProtocolError("a line that never ends")
        rest = buffer[at:]
        self._pieces, self._size, self._needed = [rest], len(rest), needed
        return items


def _arrival(line: bytes, buffer: bytes, start: int) -> tuple[Arrival | None, int]:
    """The message behind `line`, and where the next item begins; None while it is incomplete."""
    verb, *fields = line.split()
    with_headers = verb == b"HMSG"
    count = len(fields) - with_headers
    if count not in (3, 4) or not (with_headers or verb == b"MSG"):
        raise ProtocolError(f"malformed line: {line[:80]!r}")
    try:
        sid, size = _number(fields[1]), _number(fields[-1])
        head_size = _number(fields[-2]) if with_headers else 0
        subject = fields[0].decode()
        reply = fields[2].decode() if count == 4 else ""
    except ValueError as error:
        raise ProtocolError(f"malformed line: {line[:80]!r}") from error
    if not head_size <= size <= MAX_MESSAGE:
        raise ProtocolError(f"malformed sizes: {line[:80]!r}")
    stop = start + size
    if len(buffer) < stop + 2:
        return None, stop + 2
    if buffer[stop : stop + 2] != CRLF:
        raise ProtocolError("a message that does not end where it should")
    middle = start + head_size
    return Arrival(subject, sid, reply, buffer[start:middle], buffer[middle:stop]), stop + 2


def _number(field: bytes) -> int:
    """`int` alone would take `-1`, `+1` and `1_0` as well."""
    if not field.isdigit() or len(field) > 18:
        raise ValueError("not a number")
    return int(field)


def _control(line: bytes) -> Control:
    verb, _, argument = line.decode(errors="replace").partition(" ")
    verb = verb.upper()
    if verb not in ("INFO", "PING", "PONG", "+OK", "-ERR"):
        raise ProtocolError(f"unknown line: {line[:80]!r}")
    return Control(verb, argument.strip())


def server_info(argument: str) -> dict[str, Any]:
    """What an INFO line says. Raises ProtocolError for what no server would say."""
    try:
        info = json.loads(argument)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("INFO is not JSON") from error
    if not isinstance(info, dict):
        raise ProtocolError("INFO is not an object")
    urls, nonce = info.get("connect_urls"), info.get("nonce", "")
    largest = info.setdefault("max_payload", 1_048_576)
    if type(largest) is not int or not isinstance(nonce, str):
        raise ProtocolError("INFO has fields of a wrong type")
    listed = urls if isinstance(urls, list) else []
    info["connect_urls"] = [url for url in listed if isinstance(url, str)]
    return info


@lru_cache(256)
def _is_name(header: str) -> bool:
    return _VISIBLE_BUT_COLON.fullmatch(header) is not None


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they stand before a payload; empty for none.

    Raises ValueError for a line break, which would begin another header, and for a name that is
    none.
    """
    if not headers:
        return b""
    if not all(map(_is_name, headers)):
        raise ValueError("a header's name must be visible characters without a colon")
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
