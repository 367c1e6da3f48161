"""Sockets as the wire needs them: one thread may send while another one receives.

`receive` waits in the kernel by SO_RCVTIMEO, which costs no system call of its own as `settimeout`
does. Under gevent that option has no effect, so there the wait is a `select`.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from time import monotonic
from typing import Protocol

from dramatiq.threading import is_gevent_active

CHUNK = 65_536
"""Bytes that one read may bring."""
SEND_SECONDS = 10.0
"""How long the kernel may refuse to take more before the connection counts as lost."""

_LONGEST_WAIT = 3600.0


class ByteStream(Protocol):
    """A connection. Failures are OSErrors; ConnectionError for one that has ended."""

    def send(self, data: bytes) -> None:
        """All of it."""

    def receive(self, timeout: float) -> bytes:
        """Some bytes; none after `timeout` seconds."""

    def close(self) -> None:
        """A thread in `receive` gets a ConnectionError. Idempotent."""


def connect(host: str, port: int, timeout: float) -> PlainStream:
    """`timeout` in seconds, for each address of the host."""
    sock = socket.create_connection((host, port), timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(None)
        return GreenStream(sock) if is_gevent_active() else PlainStream(sock)
    except BaseException:
        sock.close()
        raise


class PlainStream:
    """TCP."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout = -1.0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_SECONDS))

    def send(self, data: bytes) -> None:
        """All of it."""
        self._sock.sendall(data)

    def receive(self, timeout: float) -> bytes:
        """Some bytes; none after `timeout` seconds."""
        if timeout != self._timeout:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))
            self._timeout = timeout
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("the server has hung up")
        return data

    def close(self) -> None:
        """Wakes a thread in `receive`."""
        with suppress(OSError):  # not connected any more
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class GreenStream(PlainStream):
    """TCP under gevent."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.settimeout(SEND_SECONDS)  # gevent's sockets know nothing of SO_SNDTIMEO

    def receive(self, timeout: float) -> bytes:
        """Some bytes; none after `timeout` seconds."""
        if self._sock.fileno() < 0:
            raise ConnectionError("closed")
        readable, _, _ = select.select([self._sock], [], [], timeout)
        return super().receive(self._timeout) if readable else b""


class TlsStream:
    """TLS over another stream; the cipher works in memory, so that both directions are free."""

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, server_hostname: str) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        self._cipher = threading.Lock()
        self._sending = threading.Lock()

    @classmethod
    def over(
        cls, stream: ByteStream, context: ssl.SSLContext, server_hostname: str, timeout: float
    ) -> TlsStream:
        """After the handshake, which may take `timeout` seconds."""
        encrypted = cls(stream, context, server_hostname)
        encrypted._shake_hands(monotonic() + timeout)
        return encrypted

    def _shake_hands(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if monotonic() >= deadline:
                    raise TimeoutError("the TLS handshake takes too long") from None
                self._incoming.write(self._stream.receive(max(0.01, deadline - monotonic())))
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # so that the server's log can say why
                raise
            else:
                self._flush()
                return

    def _flush(self) -> None:
        """What the cipher has produced goes out, in the order in which it did."""
        with self._sending:
            with self._cipher:
                data = self._outgoing.read()
            if data:
                self._stream.send(data)

    def send(self, data: bytes) -> None:
        """All of it."""
        with self._cipher:
            self._tls.write(data)
        self._flush()

    def receive(self, timeout: float) -> bytes:
        """Some bytes; none after `timeout` seconds, or when a record is not complete by then."""
        if plain := self._decrypted():
            return plain
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            data = self._stream.receive(left)
            if not data:
                break
            with self._cipher:
                self._incoming.write(data)
            if plain := self._decrypted():
                return plain
        return b""

    def _decrypted(self) -> bytes:
        pieces = []
        with self._cipher:
            try:
                while piece := self._tls.read(CHUNK):
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if not pieces:  # what came before is told first; the error comes again
                    raise
            answer = self._outgoing.pending
        if answer:  # a key update, say
            self._flush()
        return b"".join(pieces)

    def close(self) -> None:
        """Wakes a thread in `receive`."""
        self._stream.close()


def _timeval(seconds: float) -> bytes:
    """`struct timeval`; zero would mean to wait for ever."""
    microseconds = max(1, int(min(seconds, _LONGEST_WAIT) * 1e6))
    return struct.pack("ll", microseconds // 1_000_000, microseconds % 1_000_000)
