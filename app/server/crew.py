"""As many threads as it takes: few while all goes well, more while some of them are held up.

Python runs one thread at a time, so those that compute only stand in each other's way; those that
wait, for NATS or for a client that reads a stream, do not count.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from time import monotonic

CORE = 16
"""So many are ready to work, besides those that are held up."""
HELD_UP_SECONDS = 0.1
"""Who has been at one event for longer is held up."""
REST_SECONDS = 10.0
"""A thread that is not needed ends after so long without an event."""


class Crew:
    """Threads that wait at `epoll` and call `attend` with each file descriptor that it names."""

    def __init__(self, epoll: select.epoll, attend: Callable[[int], None], most: int) -> None:
        self._epoll = epoll
        self._attend = attend
        self._most = most
        self._busy_since: dict[threading.Thread, float] = {}  # all threads; 0.0: not busy
        self._lock = threading.Lock()

    def reinforce(self) -> None:
        """Start the threads that are missing. To be called several times a second."""
        before = monotonic() - HELD_UP_SECONDS
        held_up = sum(0.0 < since < before for since in list(self._busy_since.values()))
        for _ in range(self._wanted(held_up) - len(self._busy_since)):
            thread = threading.Thread(target=self._work, name="http", daemon=True)
            self._busy_since[thread] = 0.0
            thread.start()

    def _wanted(self, held_up: int) -> int:
        return min(self._most, CORE + held_up)

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            events = self._epoll.poll(REST_SECONDS, 1)
            if not events and self._may_end(me):
                return
            for number, _ in events:
                self._busy_since[me] = monotonic()
                self._attend(number)
                self._busy_since[me] = 0.0

    def _may_end(self, me: threading.Thread) -> bool:
        with self._lock:
            if len(self._busy_since) <= self._wanted(0):
                return False
            del self._busy_since[me]
            return True
