"""How much time is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHORTEST = 0.001
"""Seconds. 0 would mean "do not wait" to sockets, and is refused by HTTP clients."""


class Deadline:
    """A moment to be done by; None: there is all the time in the world."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def left(self, grace: float = 0.0) -> float | None:
        """Seconds until `grace` after the end, never below SHORTEST; None without an end."""
        return None if self._end is None else max(SHORTEST, self._end + grace - time.monotonic())


@contextmanager
def killed_after(kill: Callable[[], bool], deadline: Deadline) -> Iterator[threading.Event]:
    """Calls `kill` from a thread of its own when the time is up before the block is left.

    The event is set when it was, and `kill` said that there was something left to kill.
    """
    killed = threading.Event()
    seconds = deadline.left()
    if seconds is None:
        yield killed
        return
    timer = threading.Timer(seconds, lambda: killed.set() if kill() else None)
    timer.start()
    try:
        yield killed
    finally:
        timer.cancel()
        timer.join()
