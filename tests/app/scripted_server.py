"""An HTTP server that plays the API and the log manager by a script."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from app.client import HadesClient

JOB_ID = "00000000-0000-0000-0000-000000000007"


class Server(ThreadingHTTPServer):
    """Answers a POST with `answer`, a GET with the next of `streams`, and closes the connection."""

    answer: tuple[int, bytes] = (200, json.dumps({"job_id": JOB_ID}).encode())
    streams: list[bytes]
    seen: list[tuple[str, dict[str, str], bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def client(self, auth_key: str = "") -> HadesClient:
        return HadesClient(api_url=self.url, logs_url=self.url, auth_key=auth_key, patience=10)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(*self.server.answer, body)

    def do_GET(self) -> None:
        stream = self.server.streams.pop(0)
        self.reply(200 if stream else 404, stream, b"")

    def reply(self, status: int, answer: bytes, body: bytes) -> None:
        self.server.seen.append((self.path, dict(self.headers), body))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.streams, server.seen = [], []
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def frame(content: object, event_id: str = "") -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def log_frame(*messages: str, stream: str = "stdout", event_id: str = "") -> bytes:
    logs = [{"timestamp": "", "message": text, "output_stream": stream} for text in messages]
    step = {"index": 1, "name": "Build"}
    content = {"type": "log", "job": {}, "log": {"logs": logs}, "step": step}
    return frame(content, event_id)


def state_frame(state: str, reason: str | None = None) -> bytes:
    return frame({"type": "job", "job": {"id": JOB_ID, "status": state, "reason": reason}})
