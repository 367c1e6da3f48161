"""One blocking connection to a NATS server, for the hot path: publish, pull, acknowledge.

    with Wire.open(servers) as wire: wire.send(frame); wire.receive(seconds)

Any thread may send; one thread at a time receives. What goes wrong is a ConnectionClosed, and then
the wire is of no more use: whoever holds it opens another. Why it stands beside nats-py is written
down in docs/decisions/0007.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from time import monotonic
from types import TracebackType
from typing import Any, Self

from . import protocol
from .byte_streams import ByteStream, TlsStream, connect
from .errors import ConnectionClosed, ConnectionFailed, PermissionDenied
from .protocol import Arrival, Control, Parser
from .servers import Endpoint, Servers

DIAL_SECONDS = 2.0
"""How long one server may take to answer before the next one is tried."""
SILENCE_SECONDS = 10.0
"""After so long without a word the server is asked; after twice as long it counts as lost."""

_FAILURES = (OSError, ValueError, ssl.SSLError)


class Wire:
    """Created by `open`."""

    def __init__(self, stream: ByteStream, parser: Parser, info: dict[str, Any]) -> None:
        self.max_payload = int(info.get("max_payload", 1_048_576))
        self.inbox = f"_INBOX.{secrets.token_hex(11)}"
        """A subject of this wire alone, to be extended with tokens."""
        self.lame = False
        """Whether the server is about to leave: open another wire soon."""
        self.closed = False
        self.used = monotonic()
        """When something was heard last."""
        self._stream = stream
        self._parser = parser
        self._sending = threading.Lock()
        self._asked = False
        self._pongs = 0
        self._inboxes = 0

    @classmethod
    def open(cls, servers: Servers) -> Self:
        """To the first server that takes us. Raises ConnectionFailed, with what each one said."""
        complaints = []
        for endpoint in servers.endpoints():
            try:
                wire, info = cls._dial(servers, endpoint)
            except _FAILURES as error:
                servers.avoid(endpoint)
                complaints.append(f"{endpoint}: {error}")
            else:
                servers.answered(endpoint, info.get("connect_urls") or ())
                return wire
        raise ConnectionFailed(f"no NATS server at {'; '.join(complaints)}")

    @classmethod
    def _dial(cls, servers: Servers, endpoint: Endpoint) -> tuple[Self, dict[str, Any]]:
        stream: ByteStream = connect(endpoint.host, endpoint.port, DIAL_SECONDS)
        try:
            deadline = monotonic() + max(DIAL_SECONDS, servers.connect_timeout)
            parser = Parser()
            if servers.tls_first:
                stream = _encrypted(servers, endpoint, stream, True, deadline)
            info = _greeting(stream, parser, deadline)
            if not servers.tls_first:
                stream = _encrypted(servers, endpoint, stream, _wants_tls(info), deadline)
            wire = cls(stream, parser, info)
            wire._introduce(servers.login(endpoint, info.get("nonce", "")), servers.name, deadline)
        except BaseException:
            stream.close()
            raise
        return wire, info

    def _introduce(self, login: dict[str, str], name: str, deadline: float) -> None:
        fields = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "dramatiq",
            "name": name,
            "protocol": 1,
            "echo": True,
            "headers": True,
            "no_responders": True,
            "tls_required": isinstance(self._stream, TlsStream),
            **login,
        }
        self.send(protocol.connection(fields) + b"PING\r\n")
        while self._pongs == 0:
            if monotonic() >= deadline:
                raise ConnectionClosed("the server did not answer")
            self.receive(max(0.01, deadline - monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def next_inbox(self) -> str:
        """A subject for one answer. For one thread at a time."""
        self._inboxes += 1
        return f"{self.inbox}.{self._inboxes}"

    def send(self, frames: bytes) -> None:
        """Hand whole frames to the operating system. Raises ConnectionClosed."""
        try:
            with self._sending:
                self._stream.send(frames)
        except OSError as error:
            self.close()
            raise ConnectionClosed(f"NATS does not take what is sent: {error}") from error
        except BaseException:  # an interrupted frame would garble the next one
            self.close()
            raise

    def receive(self, timeout: float) -> list[Arrival]:
        """What came, at the latest after `timeout` seconds; empty when nothing did.

        Raises ConnectionClosed, also for a server that has been silent for too long.
        """
        try:
            data = self._stream.receive(timeout)
            items = self._parser.feed(data) if data else []
        except OSError as error:
            self.close()
            raise ConnectionClosed(f"NATS connection lost: {error}") from error
        except BaseException:  # what was read would be missing from the next item
            self.close()
            raise
        if data:
            self.used, self._asked = monotonic(), False
        else:
            self._mind_the_silence()
        return [item for item in items if isinstance(item, Arrival) or self._answer(item)]  # type: ignore[misc]

    def _answer(self, item: Control) -> bool:
        """Do what a control line asks; never keeps it."""
        if item.verb == "PING":
            self.send(b"PONG\r\n")
        elif item.verb == "PONG":
            self._pongs += 1
        elif item.verb == "INFO":
            self.lame = self.lame or bool(json.loads(item.argument).get("ldm"))
        elif item.verb == "-ERR":
            if item.argument.lower().startswith("'permissions violation"):
                raise PermissionDenied(item.argument.strip("'"))
            self.close()
            raise ConnectionClosed(f"NATS says {item.argument}")
        return False

    def _mind_the_silence(self) -> None:
        silent = monotonic() - self.used
        if silent > 2 * SILENCE_SECONDS:
            self.close()
            raise ConnectionClosed(f"NATS has been silent for {silent:.0f} s")
        if silent > SILENCE_SECONDS and not self._asked:
            self._asked = True
            self.send(b"PING\r\n")

    def settle(self, timeout: float) -> list[Arrival]:
        """All that was on its way to us: what the server has sent before it answers a PING."""
        expected = self._pongs + 1
        self.send(b"PING\r\n")
        arrivals: list[Arrival] = []
        deadline = monotonic() + timeout
        while self._pongs < expected and monotonic() < deadline:
            arrivals += self.receive(max(0.01, deadline - monotonic()))
        return arrivals

    def close(self) -> None:
        """Hang up. A thread that receives is told. Idempotent."""
        self.closed = True
        self._stream.close()


def _wants_tls(info: dict[str, Any]) -> bool:
    return bool(info.get("tls_required"))


def _greeting(stream: ByteStream, parser: Parser, deadline: float) -> dict[str, Any]:
    """The INFO that a server begins with."""
    while monotonic() < deadline:
        data = stream.receive(max(0.01, deadline - monotonic()))
        for item in parser.feed(data) if data else ():
            if isinstance(item, Control) and item.verb == "INFO":
                info: dict[str, Any] = json.loads(item.argument)
                return info
            raise protocol.ProtocolError("not a NATS server")
    raise TimeoutError("no greeting")


def _encrypted(
    servers: Servers, endpoint: Endpoint, stream: ByteStream, required: bool, deadline: float
) -> ByteStream:
    context = servers.tls_context(endpoint, required)
    if context is None:
        return stream
    name = servers.tls_hostname or endpoint.host
    return TlsStream.over(stream, context, name, max(0.01, deadline - monotonic()))
