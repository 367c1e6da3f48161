"""Bounds of queues, kept by those who enqueue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from dramatiq.errors import BrokerConnectionError

from .errors import ConnectionClosed, QueueFull
from .forks import after_fork

CREDIT_SECONDS = 1.0
"""How long what was counted is relied upon."""
SHARE = 8
"""Each producer enqueues this part of the room that it saw before it counts again."""


class LengthLimit:
    """`count` asks the server how many messages of a queue are unfinished.

    Producers do not know of each other: together they may exceed the limit by as much as each of
    them saw as its share, and by no more than one message each when the queue is nearly full.
    """

    def __init__(self, limit: int, count: Callable[[str], int]) -> None:
        self._limit = limit
        self._count = count
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._credits: dict[str, tuple[int, float]] = {}
        self._failed: tuple[str, float] = ("", -1.0)
        self._lock = threading.Lock()

    def admit(self, queue: str) -> None:
        """One more message. Raises QueueFull."""
        self._spend(queue, 1)

    def check(self, queue: str) -> None:
        """Whether one more would be admitted; it is not counted. Raises QueueFull."""
        self._spend(queue, 0)

    def _spend(self, queue: str, count: int) -> None:
        asked = monotonic()
        with self._lock:
            credit, until = self._credits.get(queue, (0, 0.0))
            if credit <= 0 or monotonic() > until:
                credit, until = self._room(queue, asked), monotonic() + CREDIT_SECONDS
            self._credits[queue] = (credit - count, until)

    def _room(self, queue: str, asked: float) -> int:
        length = self._counted(queue, asked)
        if length >= self._limit:
            raise QueueFull(f"queue {queue} holds {length} messages; its limit is {self._limit}")
        return max(1, (self._limit - length) // SHARE)

    def _counted(self, queue: str, asked: float) -> int:
        """Who waited while another thread heard nothing from NATS does not wait once more."""
        why, when = self._failed
        if when >= asked:
            raise ConnectionClosed(why)
        try:
            return self._count(queue)
        except BrokerConnectionError as error:
            self._failed = (str(error), monotonic())
            raise
