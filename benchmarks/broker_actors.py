"""The actors that are measured: loaded by `dramatiq` on one side and by the senders on the other.

BENCHMARK_BROKER is the name of a variant, BENCHMARK_URL its server; BENCHMARK_RECORDS is the
directory where worker processes leave their records.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import dramatiq
from dramatiq import Broker, Middleware

from benchmarks.broker_record import Record, wait_at_gate
from benchmarks.broker_variants import QUEUE, open_broker

RECORD = Record()


class Gate(Middleware):
    """Opens the record of a worker process and waits until the others have booted, too."""

    def after_process_boot(self, broker: Broker) -> None:
        directory = Path(os.environ["BENCHMARK_RECORDS"])
        RECORD.open(directory)
        wait_at_gate(directory)


broker = open_broker(os.environ["BENCHMARK_BROKER"], os.environ["BENCHMARK_URL"])
broker.add_middleware(Gate())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop() -> None:
    """Counted, and nothing else."""
    RECORD.processed(time.monotonic_ns())


@dramatiq.actor(queue_name=QUEUE)
def stamp(index: int, sent: int) -> None:
    """Notes how long ago it was sent; `sent` is a monotonic time in ns."""
    RECORD.latency(index, time.monotonic_ns() - sent)
