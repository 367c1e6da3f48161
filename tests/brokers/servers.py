"""Servers for tests: real ones with a configuration, and scripted ones that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brokers.embedded import EmbeddedNats

INFO = b'INFO {"max_payload":1048576,"headers":true}\r\n'


class ConfiguredNats(EmbeddedNats):
    """A nats-server with a configuration file."""

    def __init__(self, data_dir: Path, config: str) -> None:
        super().__init__(data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        self.config = data_dir / "nats.conf"
        self.config.write_text(config)

    def _argv(self) -> list[str]:
        return [*super()._argv(), "--config", str(self.config)]


class Peer:
    """The other side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lines = sock.makefile("rb")

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        """What the client says next; empty when it has hung up."""
        return self._lines.readline()

    def greet(self, info: bytes = INFO) -> None:
        """As a healthy server does."""
        self.say(info)
        assert self.line().startswith(b"CONNECT ")
        assert self.line() == b"PING\r\n"
        self.say(b"PONG\r\n")

    def close(self) -> None:
        self._lines.close()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@contextmanager
def scripted(script: Callable[[Peer], object]) -> Iterator[str]:
    """The URL of a listener that plays `script` to each client, then waits until that hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    peers: list[Peer] = []
    threads: list[threading.Thread] = []

    def serve(peer: Peer) -> None:
        with suppress(OSError, ValueError):  # the client has hung up, or the test is over
            script(peer)
            while peer.line():
                pass
        peer.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                peers.append(Peer(listener.accept()[0]))
                thread = threading.Thread(target=serve, args=(peers[-1],))
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for peer in peers:
            with suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def dead_url() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"nats://127.0.0.1:{listener.getsockname()[1]}"
