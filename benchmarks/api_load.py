"""A light HTTP client that measures, in a process of its own: preformatted requests, raw sockets.

    python -m benchmarks.api_load PORT --connections 64 --seconds 3 [--path /v1/jobs --jobs 1000]
    python -m benchmarks.api_load PORT --requests 50000 --connections 64

Every connection is kept alive and has one request under way. Prints one line of JSON: `requests`
that were answered with success, `refused` by their status, `sent` in all, also while it warmed up,
how often the server `hung_up`, `seconds`, and percentiles in seconds.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
from collections import Counter
from time import perf_counter
from typing import Any

BODY: dict[str, Any] = {
    "name": "benchmark",
    "priority": 3,
    "metadata": {"GLOBAL": "test"},
    "steps": [
        {
            "id": 1,
            "name": "clone",
            "image": "alpine:latest",
            "script": "echo clone",
            "metadata": {"REPOSITORY": "https://example.org/a.git"},
        },
        {"id": 2, "name": "test", "image": "alpine:latest", "script": "make test"},
    ],
}
"""What one client submits: the two steps, and the metadata, of a usual grading job."""
PATIENCE = 30.0  # seconds without any answer
WARM_UP = 0.3  # seconds that are not counted


def request_bytes(path: str, jobs: int = 0) -> bytes:
    """A whole request; `jobs`: that many in one body, as the batch route takes them."""
    body = json.dumps({"jobs": [BODY] * jobs} if jobs else BODY).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One client: sends its request again as soon as it is answered."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._answer = b""
        self.sent_at = 0.0

    def send(self) -> None:
        self.sent_at = perf_counter()
        self.socket.sendall(self._request)

    def receive(self) -> int:
        """The status of an answer that is complete now, else 0. Raises ConnectionError."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server hung up")
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0 or len(self._answer) < end + 4 + _length(self._answer[:end]):
            return 0
        status, self._answer = int(self._answer[9:12]), b""
        return status


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


class Load:
    """So many connections at once, for so long or for so many requests."""

    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self._port, self._request = port, request
        for _ in range(connections):
            self._connect()
        self.latencies: list[float] = []
        self.sent = 0
        self.refused: Counter[int] = Counter()
        self.hung_up = 0

    def _connect(self) -> Connection:
        connection = Connection(self._port, self._request)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def run(self, *, seconds: float, requests: int) -> float:
        """Returns how many seconds it took; whichever limit is reached first ends it."""
        for connection in self._connections.values():
            connection.send()
        started = perf_counter()
        counted_from = started + (WARM_UP if seconds else 0.0)
        ends = counted_from + seconds if seconds else float("inf")
        now = started
        while now < ends and not (requests and len(self.latencies) >= requests):
            events = self._epoll.poll(PATIENCE)
            if not events:
                raise TimeoutError(f"no answer within {PATIENCE:g} s")
            for number, _ in events:
                now = self._turn(self._connections[number], counted_from)
        return now - counted_from

    def _turn(self, connection: Connection, counted_from: float) -> float:
        now = perf_counter()
        try:
            status = connection.receive()
            now = perf_counter()
            if status:
                self._count(status, now - connection.sent_at, now >= counted_from)
                connection.send()
        except OSError:
            self.hung_up += 1
            connection.socket.close()
            self._connect().send()
        return now

    def _count(self, status: int, latency: float, counted: bool) -> None:
        self.sent += 1
        if status not in (200, 201, 202):
            self.refused[status] += 1
        elif counted:
            self.latencies.append(latency)


def report(load: Load, seconds: float) -> dict[str, Any]:
    """As it is printed."""
    latencies = sorted(load.latencies)
    return {
        "requests": len(latencies),
        "sent": load.sent,
        "refused": dict(load.refused),
        "hung_up": load.hung_up,
        "seconds": seconds,
        "p50": percentile(latencies, 0.50),
        "p99": percentile(latencies, 0.99),
        "max": percentile(latencies, 1.0),
    }


def percentile(ordered: list[float], part: float) -> float:
    """Of values in ascending order; 0.0 of none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def main() -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--path", default="/build")
    parser.add_argument("--jobs", type=int, default=0)
    chosen = parser.parse_args()
    load = Load(chosen.port, request_bytes(chosen.path, chosen.jobs), chosen.connections)
    seconds = load.run(seconds=chosen.seconds, requests=chosen.requests)
    print(json.dumps(report(load, seconds)))


if __name__ == "__main__":
    main()
