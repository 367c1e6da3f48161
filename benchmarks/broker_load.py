"""Sends messages through a broker, in a process of its own, and prints what it did as JSON.

    python -m benchmarks.broker_load enqueue THREADS SECONDS
    python -m benchmarks.broker_load preload MESSAGES
    python -m benchmarks.broker_load latency SENDS PAUSE
    python -m benchmarks.broker_load leftover

The broker is chosen as in `broker_actors`. Seconds throughout.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.broker_actors import broker, noop, stamp
from benchmarks.broker_variants import QUEUE, VARIANTS, depth, sender, settler

WARM_UP = 20
"""Sends of each thread, to connect and declare, before the time is taken."""
PRELOAD_THREADS = 8
ARRIVAL_PATIENCE = 60.0  # seconds until the server must count all messages

variant = VARIANTS[os.environ["BENCHMARK_BROKER"]]
send = sender(variant.name, broker, noop)
settle = settler(variant.name, broker)


def enqueue(threads: int, seconds: float) -> dict[str, float]:
    """As many messages as the threads can, for so long; and until all are confirmed."""
    leftover()
    ready = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        work = [pool.submit(_send_for, seconds, ready) for _ in range(threads)]
        done = [each.result() for each in work]
    settle()
    ended = time.perf_counter()
    sent = sum(count for _, count, _ in done)
    _check_arrival(sent + sum(warm for _, _, warm in done))
    broker.flush(QUEUE)
    return {"messages": sent, "seconds": ended - min(start for start, _, _ in done)}


def _send_for(seconds: float, ready: threading.Barrier) -> tuple[float, int, int]:
    """(when it started, messages sent, messages of the warm-up)."""
    warm = sum(send() for _ in range(WARM_UP))
    settle()
    ready.wait()
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        count += send()
    return started, count, warm


def preload(messages: int) -> dict[str, float]:
    """So many messages, as fast as the broker takes them."""
    leftover()
    left, lock = messages, threading.Lock()

    def send_some() -> None:
        nonlocal left
        while True:
            with lock:
                if left <= 0:
                    return
                left -= 1
            sent = send()
            with lock:
                left -= sent - 1

    _in_threads(send_some)
    settle()
    _check_arrival(messages)
    return {"messages": messages}


def _in_threads(work: Callable[[], None]) -> None:
    threads = 1 if variant.name == "nats-many" else PRELOAD_THREADS
    with ThreadPoolExecutor(threads) as pool:
        for each in [pool.submit(work) for _ in range(threads)]:
            each.result()


def latency(sends: int, pause: float) -> dict[str, float]:
    """One message at a time, with a pause of 0.5 to 1.5 times `pause` before each."""
    pauses = random.Random(sends)
    for index in range(sends):
        time.sleep(pause * pauses.uniform(0.5, 1.5))
        stamp.send(index, time.monotonic_ns())
    settle()
    return {"messages": sends}


def leftover() -> dict[str, float]:
    """Empty the queue, and say how many messages were in it."""
    noop.send()  # now the queue is there
    settle()
    deadline = time.monotonic() + ARRIVAL_PATIENCE
    while (found := depth(broker, variant.server)) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)  # RabbitMQ may have given it to a worker that is gone already
    broker.flush(QUEUE)
    return {"messages": found - 1}


def _check_arrival(expected: int) -> None:
    """A rate of messages that got lost is none. Unconfirmed ones may still be on their way."""
    deadline = time.monotonic() + ARRIVAL_PATIENCE
    while (found := depth(broker, variant.server)) != expected:
        if time.monotonic() > deadline:
            raise SystemExit(f"{variant.name}: {expected} messages sent, {found} in the queue")
        time.sleep(0.02)


def main(command: str, *arguments: str) -> None:
    match command:
        case "enqueue":
            done = enqueue(int(arguments[0]), float(arguments[1]))
        case "preload":
            done = preload(int(arguments[0]))
        case "latency":
            done = latency(int(arguments[0]), float(arguments[1]))
        case "leftover":
            done = leftover()
    print(json.dumps(done), flush=True)
    broker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
