"""What the tests of brokers do again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from dramatiq import Message, Middleware
from dramatiq.broker import Broker, Consumer, MessageProxy

PATIENCE = 10.0
"""Seconds after which something that should have happened has not."""
A_WHILE = 0.15
"""Seconds in which something that must not happen would have."""
FAR_FUTURE_MS = 3_600_000


class Journal:
    """What actors and hooks have noted, in order; a test waits for it."""

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._changed = threading.Condition()

    def note(self, entry: Any) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    @property
    def entries(self) -> list[Any]:
        with self._changed:
            return list(self._entries)

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[Any]:
        """All entries, once there are so many."""
        return self.wait_until(lambda entries: len(entries) >= count, timeout)

    def wait_until(
        self, condition: Callable[[list[Any]], bool], timeout: float = PATIENCE
    ) -> list[Any]:
        """All entries, once they meet the condition."""
        with self._changed:
            met = self._changed.wait_for(lambda: condition(self._entries), timeout)
            assert met, f"after {timeout:g} s there is only {self._entries}"
            return list(self._entries)

    def stays_at(self, count: int) -> bool:
        """Whether no entry beyond `count` comes for a while."""
        with self._changed:
            return not self._changed.wait_for(lambda: len(self._entries) > count, A_WHILE)


class Gate:
    """Where an actor stops until the test lets it go on."""

    def __init__(self) -> None:
        self._arrivals = threading.Semaphore(0)
        self._open = threading.Event()

    def stop_here(self) -> None:
        self._arrivals.release()
        assert self._open.wait(3 * PATIENCE), "nobody opened the gate"

    def await_arrivals(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrivals.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class Recorder(Middleware):
    """Notes the names of the signals that it gets, of those that it is asked for."""

    def __init__(self, journal: Journal, *signals: str) -> None:
        for signal in signals:
            setattr(self, signal, self._noting(journal, signal))

    def _noting(self, journal: Journal, signal: str) -> Callable[..., None]:
        return lambda *args, **kwargs: journal.note(signal)


class Garbled(Message[Any]):
    """A message whose bytes no encoder has made."""

    def encode(self) -> bytes:
        return b"\xff\x00 no message"


def message_for(queue: str, *args: Any, **options: Any) -> Message[Any]:
    """A message for an actor `work` that need not exist."""
    return Message(queue_name=queue, actor_name="work", args=args, kwargs={}, options=options)


def put(broker: Broker, queue: str, *args: Any, delay: int | None = None) -> Message[Any]:
    """Send a message through a queue that is declared when it was not; `delay` is in ms."""
    broker.declare_queue(queue)
    return broker.enqueue(message_for(queue, *args), delay=delay)


def take(consumer: Consumer, count: int, timeout: float = PATIENCE) -> list[MessageProxy]:
    """The consumer's next messages, none of them acknowledged."""
    taken: list[MessageProxy] = []
    deadline = monotonic() + timeout
    while len(taken) < count:
        assert monotonic() < deadline, f"only {len(taken)} of {count} messages came"
        message = next(consumer)
        if message is not None:
            taken.append(message)
    return taken


def take_one(consumer: Consumer, timeout: float = PATIENCE) -> MessageProxy:
    """The consumer's next message."""
    return take(consumer, 1, timeout)[0]


def is_empty(consumer: Consumer) -> bool:
    """Whether it has nothing for a while."""
    deadline = monotonic() + A_WHILE
    while monotonic() < deadline:
        if next(consumer) is not None:
            return False
    return True


def until(condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Wait for something that tells nobody when it happens."""
    deadline = monotonic() + timeout
    while not condition():
        assert monotonic() < deadline, f"not after {timeout:g} s: {what}"
        threading.Event().wait(0.01)
