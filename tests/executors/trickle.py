"""A registry whose one image comes drop by drop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.executors.image_archives import MANIFEST, config, digest, file, layer, manifest

DROP = 16 * 1024
PAUSE = 0.02
"""Seconds between two drops: the whole takes longer than any test waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trickling:
    """How a test hears of a pull."""

    image: str
    begun: threading.Event
    """The first drop is on its way."""
    broken_off: threading.Event
    """Whoever pulled has hung up."""


@contextmanager
def trickling_registry() -> Iterator[Trickling]:
    """On the loopback, without TLS."""
    data = layer(file("big", os.urandom(64 * 1024**2)))
    about = config([data])
    small = {"manifests": manifest(about, [data]), f"blobs/{digest(about)}": about}
    begun, broken_off, over = threading.Event(), threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            answer = self._answer()
            if answer is None:
                self._trickle()
            else:
                self.wfile.write(answer)

        def _answer(self) -> bytes | None:
            """None: it is the layer that was asked for."""
            name = self.path.removeprefix("/v2/drops/")
            body = small.get("manifests" if name.startswith("manifests/") else name, b"")
            found = None if digest(data) in name else body
            self.send_response(200)
            self.send_header("Content-Type", MANIFEST if "manifests" in name else "x/y")
            self.send_header("Docker-Content-Digest", digest(data if found is None else found))
            self.send_header("Content-Length", str(len(data if found is None else found)))
            self.end_headers()
            return found

        def _trickle(self) -> None:
            try:
                for start in range(0, len(data), DROP):
                    self.wfile.write(data[start : start + DROP])
                    begun.set()
                    if over.wait(PAUSE):
                        return
            except OSError:
                broken_off.set()

        def log_message(self, *_: object) -> None:
            """Not on the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            image = f"127.0.0.1:{server.server_address[1]}/drops:1"
            yield Trickling(image=image, begun=begun, broken_off=broken_off)
        finally:
            over.set()
            server.shutdown()
            thread.join()
