"""What the processes do that share limiters; a test starts them and adds up what they tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from dramatiq.rate_limits import Barrier, BucketRateLimiter, ConcurrentRateLimiter
from dramatiq.rate_limits import WindowRateLimiter as Window

from brokers.nats import NatsRateLimiterBackend

THREADS = 16
_start: threading.Barrier


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each thread of each process shall do, and how often."""

    url: str
    namespace: str
    what: str
    times: int


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of one process."""

    done: int
    by_thread: list[int]
    seconds: float
    ended: float


def be_ready(start: threading.Barrier) -> None:
    """In each process first, so that none of them is through before the others begin."""
    global _start
    _start = start


def run(task: Task) -> Tally:
    """In a process of its own."""
    with opened(task) as backend, ThreadPoolExecutor(THREADS) as pool:
        backend.add("warm", 1, 60_000)
        do = WORK[task.what]
        _start.wait(60)
        begin = time.monotonic()
        by_thread = list(pool.map(lambda _: repeat(do, backend, task.times), range(THREADS)))
        end = time.monotonic()
    return Tally(done=sum(by_thread), by_thread=by_thread, seconds=end - begin, ended=end)


@contextmanager
def opened(task: Task) -> Iterator[NatsRateLimiterBackend]:
    backend = NatsRateLimiterBackend(url=task.url, namespace=task.namespace)
    try:
        yield backend
    finally:
        backend.close()


def repeat(do: Callable[[NatsRateLimiterBackend], bool], backend, times: int) -> int:
    return sum(do(backend) for _ in range(times))


def enter(backend: NatsRateLimiterBackend) -> bool:
    """Raises when more are inside than may be; those who are refused come again."""
    limiter = ConcurrentRateLimiter(backend, "door", limit=3)
    while True:
        with limiter.acquire(raise_on_failure=False) as acquired:
            if acquired:
                assert backend.incr("inside", 1, maximum=3, ttl=600_000), "too many"
                assert backend.decr("inside", 1, minimum=0, ttl=600_000)
                return True


def meet(backend: NatsRateLimiterBackend) -> bool:
    barrier = Barrier(backend, "meeting", ttl=600_000)
    barrier.create(parties=2 * THREADS)
    return bool(barrier.wait(timeout=60_000))


PARTS = ["left", "right", "up@1", "down@1"]

WORK: dict[str, Callable[[NatsRateLimiterBackend], bool]] = {
    "count": lambda backend: backend.incr("n", 1, 10**9, 600_000),
    "count to 100": lambda backend: backend.incr("n", 1, 100, 600_000),
    "bucket of 100": lambda backend: BucketRateLimiter(
        backend, "b", limit=100, bucket=3_600_000
    )._acquire(),
    "window of 100": lambda backend: Window(backend, "w", limit=100, window=600)._acquire(),
    "large window": lambda backend: Window(backend, "w", limit=10**9, window=600)._acquire(),
    "scattered 20": lambda backend: backend.incr_and_sum(
        PARTS[time.time_ns() % 4], lambda: PARTS, 1, 20, 600_000
    ),
    "enter": enter,
    "meet": meet,
}
