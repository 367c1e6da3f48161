"""Results and rate limiters on NATS, beside Dramatiq's own backends on Redis.

    python -m benchmarks.broker_backends [--repetitions N] [--storage file|memory] [WORD ...]

Runs the rows whose names hold one of the words, else all of them. Needs `redis-server` and the
package redis. Prints a table in Markdown. README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import redis
from dramatiq import Message
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as RedisLimits
from dramatiq.results.backends import RedisBackend as RedisResults

from benchmarks.end_to_end import machine, shown
from brokers.embedded import EmbeddedNats
from brokers.nats import NatsRateLimiterBackend, NatsResultBackend
from brokers.nats.connection import NatsConnection

SECONDS = 1.0
"""How long one measurement of a rate lasts."""
RESULT = {"state": "Succeeded", "exit_codes": [0, 0, 0], "text": "x" * 100}
TTL = 600_000  # ms
THREADS = 8
WAKE_UPS = 100
USED = 600
"""Seconds of an hour's window in which something was counted."""
PROCESSES, PROCESS_THREADS = 2, 16


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two under measurement."""

    name: str
    results: Any
    limits: Any
    limits_of: tuple[Callable[[str], Any], str]
    """Makes the rate limiters' backend in another process."""


def redis_limits(url: str) -> Any:
    """In a process that has no backend yet."""
    return RedisLimits(url=url)


def nats_limits(url: str) -> Any:
    """In a process that has no backend yet."""
    return NatsRateLimiterBackend(url=url)


def a_message() -> Message[Any]:
    """Of which nobody knows a result."""
    return Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={})


def a_key() -> str:
    """Which nobody has used."""
    return uuid.uuid4().hex


def rate(work: Callable[[], object], threads: int = 1) -> float:
    """How often `work` is done in a second, by all threads together."""
    end = time.perf_counter() + SECONDS

    def repeat(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            work()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        total = sum(pool.map(repeat, range(threads)))
        return total / (time.perf_counter() - start)


def store(side: Side, threads: int) -> float:
    """Results of new messages."""
    return rate(lambda: side.results.store_result(a_message(), RESULT, TTL), threads)


def get(side: Side, threads: int) -> float:
    """A result that is there."""
    message = a_message()
    side.results.store_result(message, RESULT, TTL)
    return rate(lambda: side.results.get_result(message), threads)


def get_blocking(side: Side, threads: int) -> float:
    """A result that is there, by who would have waited for it."""
    message = a_message()
    side.results.store_result(message, RESULT, TTL)
    return rate(lambda: side.results.get_result(message, block=True), threads)


def wake_up(side: Side, _: int) -> float:
    """From before the result is stored until a thread that waits for it has it, in ms."""
    return median(_woken(side) for _ in range(WAKE_UPS))


def _woken(side: Side) -> float:
    message, woken = a_message(), list[float]()

    def waiter() -> None:
        side.results.get_result(message, block=True)
        woken.append(time.perf_counter())

    thread = threading.Thread(target=waiter)
    thread.start()
    time.sleep(0.01)  # it waits by now
    start = time.perf_counter()
    side.results.store_result(message, RESULT, TTL)
    thread.join()
    return 1000 * (woken[0] - start)


def mutex(side: Side, threads: int) -> float:
    """Acquired and released; each thread has a key of its own, so nobody is refused."""
    local = threading.local()

    def cycle() -> None:
        if not hasattr(local, "limiter"):
            local.limiter = ConcurrentRateLimiter(side.limits, a_key(), limit=1)
        with local.limiter.acquire():
            pass

    return rate(cycle, threads)


def shared(side: Side, threads: int) -> float:
    """Acquired and released by threads that share one key with room for all."""
    limiter = ConcurrentRateLimiter(side.limits, a_key(), limit=threads)

    def cycle() -> None:
        with limiter.acquire():
            pass

    return rate(cycle, threads)


def window(side: Side, threads: int) -> float:
    """One window of ten seconds that never fills."""
    limiter = WindowRateLimiter(side.limits, a_key(), limit=10**6, window=10)
    return rate(limiter._acquire, threads)


def full_window(side: Side, threads: int) -> float:
    """Refused by a window of ten seconds that is full."""
    limiter = WindowRateLimiter(side.limits, a_key(), limit=1, window=10)
    limiter._acquire()
    return rate(limiter._acquire, threads)


def hour(side: Side, threads: int) -> float:
    """A window of an hour, of which some seconds were used."""
    key, now = a_key(), int(time.time())
    keys = [f"{key}@{now - second}" for second in range(USED)]
    for used in keys:
        side.limits.incr_and_sum(used, lambda: keys, 1, 10**6, 3_600_000)
    limiter = WindowRateLimiter(side.limits, key, limit=10**6, window=3600)
    return rate(limiter._acquire, threads)


def processes(side: Side, threads: int) -> float:
    """One window of ten seconds that never fills, shared by several processes."""
    key, context = a_key(), multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as pool:
        done = pool.starmap(_hammer, [(*side.limits_of, key, threads)] * PROCESSES)
    return sum(done)


def _hammer(open_limits: Callable[[str], Any], url: str, key: str, threads: int) -> float:
    limiter = WindowRateLimiter(open_limits(url), key, limit=10**6, window=10)
    limiter._acquire()
    return rate(limiter._acquire, threads)


ROWS: dict[str, tuple[Callable[[Side, int], float], int]] = {
    "store a result, 1 thread": (store, 1),
    f"store a result, {THREADS} threads": (store, THREADS),
    "get a result, 1 thread": (get, 1),
    f"get a result, {THREADS} threads": (get, THREADS),
    "get a result with block=True, 1 thread": (get_blocking, 1),
    "waiter woken by a result, ms": (wake_up, 1),
    "mutex, 1 thread": (mutex, 1),
    f"mutex, {THREADS} threads, a key each": (mutex, THREADS),
    f"concurrent limiter, {THREADS} threads, one key": (shared, THREADS),
    "window of 10 s, 1 thread": (window, 1),
    f"window of 10 s, {THREADS} threads": (window, THREADS),
    f"window of 10 s that is full, {THREADS} threads": (full_window, THREADS),
    f"window of 1 h, {USED} s used, 1 thread": (hour, 1),
    f"window of 10 s, {PROCESSES} processes x {PROCESS_THREADS} threads": (
        processes,
        PROCESS_THREADS,
    ),
}


@contextmanager
def nats_side(directory: Path, storage: Any) -> Iterator[Side]:
    """A server of its own; both backends share a connection."""
    with EmbeddedNats(directory) as server:
        connection = NatsConnection(server.url)
        yield Side(
            name="NATS",
            results=NatsResultBackend(connection=connection, storage=storage),
            limits=NatsRateLimiterBackend(connection=connection, storage=storage),
            limits_of=(nats_limits, server.url),
        )
        connection.close()


@contextmanager
def redis_side(directory: Path) -> Iterator[Side]:
    """A server of its own with the defaults: it saves now and then, and not each write."""
    program = which("redis-server")
    assert program, "there is no redis-server"
    directory.mkdir()
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}"
        try:
            await_redis(url)
            yield Side(
                name="Redis",
                results=RedisResults(url=url),
                limits=RedisLimits(url=url),
                limits_of=(redis_limits, url),
            )
        finally:
            server.terminate()


def free_port() -> int:
    """Of the loopback; free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def await_redis(url: str) -> None:
    """Until it answers, for ten seconds at most."""
    end = time.monotonic() + 10
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def table(measured: dict[tuple[str, str], list[float]]) -> str:
    """Each row: medians with their ranges, and by which factor NATS is the better of the two."""
    rows = ["| what | NATS | Redis | NATS is better by |", "|---|--:|--:|--:|"]
    for what in dict.fromkeys(what for what, _ in measured):
        ours, theirs = measured[what, "NATS"], measured[what, "Redis"]
        ratio = median(ours) / median(theirs)
        better = 1 / ratio if what.endswith("ms") else ratio
        unit = "" if what.endswith("ms") else ", per second"
        rows.append(f"| {what}{unit} | {shown(ours)} | {shown(theirs)} | {better:.2f} x |")
    return "\n".join(rows)


def main() -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--storage", choices=("file", "memory"), default="file")
    chosen = parser.parse_args()
    rows = [what for what in ROWS if any(word in what for word in chosen.words or [""])]
    print(f"{machine()}; NATS storage: {chosen.storage}")
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="hades-benchmark-")))
        sides = [
            stack.enter_context(nats_side(directory / "nats", chosen.storage)),
            stack.enter_context(redis_side(directory / "redis")),
        ]
        for _ in range(chosen.repetitions):
            for what in rows:
                measure, threads = ROWS[what]
                for side in sides:  # they take turns: a slow moment of the machine meets both
                    measured[what, side.name].append(measure(side, threads))
    print(f"{chosen.repetitions} repetitions, median (range)\n\n{table(measured)}")


if __name__ == "__main__":
    main()
