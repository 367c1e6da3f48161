"""Receives callbacks, answers as their URL says, and keeps what it got.

/<name>?answers=500,500,200     to each callback: 500, then 500, then 200 for ever
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.faults.story import Delivery


class Postbox(ThreadingHTTPServer):
    """On the loopback, from `receiving` on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.arrived: list[tuple[str, Delivery]] = []
        """Each with its job."""
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def url(self, *answers: int) -> str:
        """Where each callback is answered so, the last answer for ever."""
        listed = ",".join(map(str, answers or (200,)))
        return f"http://127.0.0.1:{self.server_port}/hook?answers={listed}"

    def answer(self, callback_id: str, answers: list[int]) -> int:
        """To the next try of this callback."""
        with self._lock:
            number = self._counts[callback_id]
            self._counts[callback_id] += 1
        return answers[min(number, len(answers) - 1)]

    def of(self, job_id: str) -> list[Delivery]:
        """What has arrived about this job, in order."""
        return [delivery for job, delivery in self.arrived.copy() if job == job_id]

    def handle_error(self, *_: object) -> None:
        """A sender that is killed hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: Postbox

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query = parse_qs(urlsplit(self.path).query)
        status = self.server.answer(
            self.headers["webhook-id"], list(map(int, query["answers"][0].split(",")))
        )
        delivery = Delivery(
            id=self.headers["webhook-id"],
            kind="logs" if self.headers["X-Hades-Event"] == "job.logs" else "status",
            state=self.headers["X-Hades-Status"],
            attempt=int(self.headers["X-Hades-Attempt"]),
            answered=status,
            body=body,
        )
        self.server.arrived.append((self.headers["X-Hades-Job-Id"], delivery))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@contextmanager
def receiving() -> Iterator[Postbox]:
    """A postbox that answers."""
    with Postbox() as postbox:
        thread = threading.Thread(target=postbox.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield postbox
        finally:
            postbox.shutdown()
            thread.join()
