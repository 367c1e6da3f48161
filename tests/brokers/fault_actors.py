"""What the `dramatiq` command loads in the fault tests.

FAULT_BROKER    arguments of NatsBroker, as JSON
FAULT_JOURNAL   file of `tests.brokers.journal` that every run is noted in
FAULT_WORKER    name of this worker in it
FAULT_GATE      file that the test locks while the gate is shut
FAULT_GATED     phases at which a message waits for the gate, with commas
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import time
from typing import Any

import dramatiq
from dramatiq import Message, Middleware
from dramatiq.middleware import CurrentMessage

from brokers.nats import NatsBroker
from tests.brokers.journal import BOOTED, ENDED, FAILS, STARTED, STOPPING, append

QUEUE = "faults"

_JOURNAL = os.environ["FAULT_JOURNAL"]
_WORKER = os.environ["FAULT_WORKER"]
_GATE = os.environ["FAULT_GATE"]
_GATED = os.environ.get("FAULT_GATED", "").split(",")
_PYTHON_C = ctypes.PyDLL(None)
"""C functions that are called with the interpreter's lock held."""


def note(number: int, phase: str) -> None:
    """Write down that a message is there; wait if the gate is at this phase, and shut."""
    append(_JOURNAL, number, phase, _WORKER)
    if phase in _GATED:
        with open(_GATE) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)


class Gates(Middleware):
    """Stops a message around what the broker does with it."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        note(-1, BOOTED)

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        note(-1, STOPPING)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        _note_if_gated(message, "after_process_message")

    def before_ack(self, broker: Any, message: Any) -> None:
        _note_if_gated(message, "before_ack")

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        _note_if_gated(message, "before_enqueue")

    def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        _note_if_gated(message, "after_enqueue")


def _note_if_gated(message: Message[Any], phase: str) -> None:
    if phase in _GATED:
        note(message.args[0], phase)


broker = NatsBroker(**json.loads(os.environ["FAULT_BROKER"]))
broker.add_middleware(CurrentMessage())
broker.add_middleware(Gates())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def quick(number: int) -> None:
    """Nothing but its trace."""
    note(number, STARTED)


@dramatiq.actor(queue_name=QUEUE)
def gated(number: int) -> None:
    """Ends when the gate is open, if it is at the start."""
    note(number, STARTED)
    note(number, ENDED)


@dramatiq.actor(queue_name=QUEUE)
def slow(number: int, seconds: float) -> None:
    """Sleeps, and lets other threads work."""
    note(number, STARTED)
    time.sleep(seconds)
    note(number, ENDED)


@dramatiq.actor(queue_name=QUEUE)
def hold_gil(number: int, seconds: int) -> None:
    """Sleeps, and lets no other thread of its process work."""
    note(number, STARTED)
    _PYTHON_C.sleep(seconds)
    note(number, ENDED)


@dramatiq.actor(queue_name=QUEUE)
def poison(number: int) -> None:
    """Ends its process, as the kernel does that runs out of memory."""
    note(number, STARTED)
    os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(queue_name=QUEUE, min_backoff=200)
def relay(number: int, child: int) -> None:
    """Puts another message on the queue."""
    note(number, STARTED)
    quick.send(child)
    note(number, ENDED)


@dramatiq.actor(queue_name=QUEUE, min_backoff=200)
def fail_once(number: int) -> None:
    """Fails, and succeeds when it is tried again."""
    note(number, STARTED)
    message = CurrentMessage.get_current_message()
    if message is not None and message.options.get("retries"):
        note(number, ENDED)
        return
    note(number, FAILS)
    raise RuntimeError("not at the first time")
