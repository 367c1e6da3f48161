"""What NATS costs from Python without Dramatiq: bare nats-py, in a process of its own.

    python -m benchmarks.broker_floors publish PENDING TASKS SECONDS
    python -m benchmarks.broker_floors preload MESSAGES
    python -m benchmarks.broker_floors pull

PENDING 0: every task awaits each of its publishes; else as many may be outstanding in all.
Server and record are chosen as in `broker_actors`; the stream is configured as the broker's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import nats.errors
from nats.js import JetStreamContext, api

from benchmarks.broker_record import Record, wait_at_gate

STREAM = SUBJECT = "floor"
PAYLOAD = b"x" * 165
"""As long as a Dramatiq message without arguments, in bytes."""
FETCH = 64
WARM_UP = 20
PRELOAD_PENDING = 256


async def publish(
    jetstream: JetStreamContext, tasks: int, seconds: float, pending: int
) -> dict[str, float]:
    """As many messages as the tasks can, for so long; and until all are confirmed."""
    await declare(jetstream)
    send = jetstream.publish_async if pending else jetstream.publish
    for _ in range(WARM_UP):
        await jetstream.publish(SUBJECT, PAYLOAD)
    started = time.perf_counter()
    counts = await asyncio.gather(*(_send_until(started + seconds, send) for _ in range(tasks)))
    if pending:
        await jetstream.publish_async_completed()
    ended, sent = time.perf_counter(), sum(counts)
    await _check_arrival(jetstream, sent + WARM_UP)
    await jetstream.delete_stream(STREAM)
    return {"messages": sent, "seconds": ended - started}


async def _send_until(deadline: float, send: Callable[[str, bytes], Awaitable[object]]) -> int:
    count = 0
    while time.perf_counter() < deadline:
        await send(SUBJECT, PAYLOAD)
        count += 1
    return count


async def preload(jetstream: JetStreamContext, messages: int) -> dict[str, float]:
    """So many messages for `pull`."""
    await declare(jetstream)
    for _ in range(messages):
        await jetstream.publish_async(SUBJECT, PAYLOAD)
    await jetstream.publish_async_completed()
    await _check_arrival(jetstream, messages)
    return {"messages": messages}


async def declare(jetstream: JetStreamContext) -> None:
    """An empty stream with its one consumer."""
    await jetstream.add_stream(
        name=STREAM,
        subjects=[SUBJECT],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        duplicate_window=60.0,
    )
    await jetstream.purge_stream(STREAM)
    config = api.ConsumerConfig(
        durable_name=STREAM,
        filter_subject=SUBJECT,
        ack_policy=api.AckPolicy.EXPLICIT,
        max_ack_pending=-1,
    )
    await jetstream.add_consumer(STREAM, config)


async def _check_arrival(jetstream: JetStreamContext, expected: int) -> None:
    found = (await jetstream.stream_info(STREAM)).state.messages
    if found != expected:
        raise SystemExit(f"floor: {expected} messages sent, {found} in the stream")


async def pull(jetstream: JetStreamContext) -> dict[str, float]:
    """Fetch and acknowledge until SIGTERM."""
    record, directory, stop = Record(), Path(os.environ["BENCHMARK_RECORDS"]), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    subscription = await jetstream.pull_subscribe_bind(STREAM, STREAM)
    record.open(directory)
    wait_at_gate(directory)
    while not stop.is_set():
        try:
            messages = await subscription.fetch(FETCH, timeout=0.5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            started = time.monotonic_ns()
            await message.ack()
            record.processed(started)
    return {}


async def main(command: str, *arguments: str) -> None:
    client = await nats.connect(os.environ["BENCHMARK_URL"])
    match command:
        case "publish":
            pending, tasks, seconds = int(arguments[0]), int(arguments[1]), float(arguments[2])
            jetstream = client.jetstream(publish_async_max_pending=pending or 1)
            done = await publish(jetstream, tasks, seconds, pending)
        case "preload":
            jetstream = client.jetstream(publish_async_max_pending=PRELOAD_PENDING)
            done = await preload(jetstream, int(arguments[0]))
        case "pull":
            done = await pull(client.jetstream())
    print(json.dumps(done), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
