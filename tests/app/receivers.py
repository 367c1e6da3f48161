"""Receivers of callbacks, over real HTTP or HTTPS, that behave as a script says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

Behaviour = Callable[["Handler"], None]


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: Message
    body: bytes


class Receiver(ThreadingHTTPServer):
    """Plays `script` to the end, and then its last part for ever."""

    daemon_threads = True

    def __init__(self, *script: int | Behaviour, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.script = list(script)
        self.arrived: Queue[Request] = Queue()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/hook"

    def next(self) -> Request:
        """The next request, in the order in which they came."""
        return self.arrived.get(timeout=20)

    def handle_error(self, *_: object) -> None:
        """Clients hang up: that is what they are to do."""


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        server = self.server
        part = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.arrived.put(Request(self.path, self.headers, body))
        part(self) if callable(part) else answer(part)(self)

    def log_message(self, *_: object) -> None:
        pass


def answer(status: int, *headers: tuple[str, str], body: bytes = b"") -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def hang(handler: Handler) -> None:
    """Says nothing until the test is over."""
    handler.server.over.wait()


def drip(handler: Handler) -> None:
    """Sends a header that never ends, byte by byte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    with suppress(OSError):
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"a")


def flood(handler: Handler) -> None:
    """Answers with a body that never ends."""
    answer(200)(handler)
    with suppress(OSError):
        while not handler.server.over.is_set():
            handler.wfile.write(b"a" * 65_536)


def close(handler: Handler) -> None:
    """Hangs up without an answer."""
    handler.close_connection = True


def nonsense(handler: Handler) -> None:
    """Answers with something that is not HTTP."""
    handler.wfile.write(b"\x00\x01\x02 hello\r\n\r\n")


@contextmanager
def receiving(*script: int | Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    with Receiver(*script, tls=tls) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.over.set()
            receiver.shutdown()
            thread.join()
