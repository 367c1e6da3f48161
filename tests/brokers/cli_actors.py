"""What the processes of `test_dramatiq_cli.py` run: an actor that writes down that it ran."""

from __future__ import annotations

import os
import time

import dramatiq

from brokers.nats import NatsBroker

broker = NatsBroker(
    url=os.environ["CLI_TEST_URL"],
    namespace=os.environ["CLI_TEST_NAMESPACE"],
)


@dramatiq.actor(broker=broker, queue_name="numbers")
def note(number: int) -> None:
    """One write to a file that is open for appending is one line, whoever else writes."""
    time.sleep(float(os.environ["CLI_TEST_WORK"]))
    line = f"{number} {os.getpid()}\n".encode()
    handle = os.open(os.environ["CLI_TEST_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)
