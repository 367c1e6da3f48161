"""What the processes do that share a limit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from brokers.nats.connection import NatsConnection
from brokers.shared_limits import SharedLimits, nats_store
from brokers.token_buckets import Rate

THREADS = 8
_start: threading.Barrier


def be_ready(start: threading.Barrier) -> None:
    """In each process first, so that none of them is through before the others begin."""
    global _start
    _start = start


def run(url: str, name: str, rate: str, burst: int) -> int:
    """How often this process got a token; it stops when there are none."""
    connection = NatsConnection(url)
    limits = SharedLimits(nats_store(connection))
    limits.take("warm", Rate.parse("1/s"))

    def take_all(_: int) -> int:
        taken = 0
        while limits.take(name, Rate.parse(rate, burst)).allowed:
            taken += 1
        return taken

    _start.wait(60)
    with ThreadPoolExecutor(THREADS) as pool:
        taken = sum(pool.map(take_all, range(THREADS)))
    connection.close()
    return taken
