"""Bounds of queues, when several threads want to know."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from brokers.nats.errors import ConnectionClosed
from brokers.nats.lengths import LengthLimit

THREADS = 4


class CountedLock:
    """Says how many threads came to it."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_waited_while_another_thread_heard_nothing_does_not_wait_again():
    lock, asked = CountedLock(), []

    def count(queue: str) -> int:
        asked.append(queue)
        for _ in range(THREADS):
            assert lock.came.acquire(timeout=60)
        raise ConnectionClosed("away")

    limit = LengthLimit(5, count)
    limit._lock = lock  # type: ignore[assignment]
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(limit.admit, "q") for _ in range(THREADS)]:
            with pytest.raises(ConnectionClosed, match="away"):
                future.result(60)
    assert asked == ["q"]
