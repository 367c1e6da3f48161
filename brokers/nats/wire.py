"""One blocking connection to a NATS server, for the hot path: publish, pull, acknowledge.

    with Wire.open(servers) as wire: wire.send(frame); wire.receive(seconds)

Any thread may send; one thread at a time receives. What goes wrong is a ConnectionClosed, and then
the wire is of no more use: whoever holds it opens another. Why it stands beside nats-py is written
down in docs/decisions/0007.
"""

from __future__ import annotations

import secrets
import threading
from time import monotonic
from types import TracebackType
from typing import Any, Self

from dramatiq.errors import BrokerConnectionError

from . import protocol
from .byte_streams import ByteStream, TlsStream, connect
from .errors import ConnectionClosed, ConnectionFailed, PermissionDenied
from .protocol import Arrival, Control, Parser
from .servers import Endpoint, Servers

DIAL_SECONDS = 2.0
"""How long one server may take to answer before the next one is tried."""
SILENCE_SECONDS = 10.0
"""After so long without a word the server is asked; after twice as long it counts as lost."""

_FAILURES = (OSError, ValueError, BrokerConnectionError, PermissionDenied)


class Wire:
    """Created by `open`."""

    def __init__(self, stream: ByteStream, parser: Parser, info: dict[str, Any]) -> None:
        self.max_payload: int = info["max_payload"]
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
        self._asked: float | None = None  # when, and nothing has been heard since
        self._pings = self._pongs = 0
        self._inboxes = 0
        self._complaint: Exception | None = None  # to be raised after what came with it

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
                servers.answered(endpoint, info["connect_urls"])
                return wire
        raise ConnectionFailed(f"no NATS server at {'; '.join(complaints)}")

    @classmethod
    def _dial(cls, servers: Servers, endpoint: Endpoint) -> tuple[Self, dict[str, Any]]:
        deadline = monotonic() + max(DIAL_SECONDS, servers.connect_timeout / len(servers))
        stream: ByteStream = connect(endpoint.host, endpoint.port, DIAL_SECONDS)
        try:
            parser = Parser()
            if servers.tls_first:
                stream = _encrypted(servers, endpoint, stream, True, deadline)
            info = _greeting(stream, parser, deadline)
            if not servers.tls_first:
                plain = stream
                stream = _encrypted(servers, endpoint, stream, _wants_tls(info), deadline)
                if stream is not plain:  # nothing that was said in clear counts
                    parser = Parser()
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
        self._pings += 1
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

        Raises ConnectionClosed, also for a server that has been silent for too long; and
        PermissionDenied, after which the wire lives on.
        """
        if self._complaint is not None:
            complaint, self._complaint = self._complaint, None
            raise complaint
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
            self.used, self._asked = monotonic(), None
        else:
            self._mind_the_silence()
        return self._arrivals(items)

    def _arrivals(self, items: list[Arrival | Control]) -> list[Arrival]:
        """An error that came among them must not swallow them: it is told by the next `receive`."""
        arrivals, complaint = [], None
        for item in items:
            if isinstance(item, Arrival):
                arrivals.append(item)
            else:
                answer = self._answer(item)
                complaint = complaint or answer
        if complaint is not None and not arrivals:
            raise complaint
        self._complaint = complaint
        return arrivals

    def _answer(self, item: Control) -> Exception | None:
        """Do what a control line asks; what is to be raised."""
        try:
            if item.verb == "PING":
                self.send(b"PONG\r\n")
            elif item.verb == "PONG":
                self._pongs += 1
            elif item.verb == "INFO":
                self._note(protocol.server_info(item.argument))
            elif item.verb == "-ERR":
                if item.argument.lower().startswith("'permissions violation"):
                    return PermissionDenied(item.argument.strip("'"))
                self.close()
                return ConnectionClosed(f"NATS says {item.argument}")
        except (ConnectionClosed, protocol.ProtocolError) as error:
            self.close()
            return ConnectionClosed(f"NATS connection lost: {error}")
        return None

    def _note(self, info: dict[str, Any]) -> None:
        self.lame = self.lame or bool(info.get("ldm"))
        self.max_payload = info["max_payload"]

    def _mind_the_silence(self) -> None:
        """A wire that nobody has listened to for long was not silent: ask first."""
        now = monotonic()
        if self._asked is not None and now - self._asked > SILENCE_SECONDS:
            self.close()
            raise ConnectionClosed(f"NATS has been silent for {now - self.used:.0f} s")
        if self._asked is None and now - self.used > SILENCE_SECONDS:
            self._asked = now
            self._ping()

    def _ping(self) -> None:
        self._pings += 1
        self.send(b"PING\r\n")

    def settle(self, timeout: float) -> list[Arrival]:
        """All that was on its way to us: what the server has sent before it answers a PING.

        Also when the connection ends meanwhile, or when it takes too long.
        """
        arrivals: list[Arrival] = []
        deadline = monotonic() + timeout
        try:
            self._ping()
            expected = self._pings
            while self._pongs < expected and monotonic() < deadline:
                arrivals += self.receive(max(0.01, deadline - monotonic()))
        except (ConnectionClosed, PermissionDenied):
            if not arrivals:
                raise
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
                return protocol.server_info(item.argument)
            if isinstance(item, Control) and item.verb == "-ERR":
                raise ConnectionError(f"NATS says {item.argument}")
            raise protocol.ProtocolError("not a NATS server")
    raise TimeoutError("no greeting")


def _encrypted(
    servers: Servers, endpoint: Endpoint, stream: ByteStream, required: bool, deadline: float
) -> ByteStream:
    context = servers.tls_context(endpoint, required)
    if context is None:
        return stream
    name = servers.tls_hostname or endpoint.tls_hostname or endpoint.host
    return TlsStream.over(stream, context, name, max(0.01, deadline - monotonic()))
