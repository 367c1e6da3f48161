"""How much of long bodies may be held at once, so that their memory is bounded."""

from __future__ import annotations

import threading
from collections import deque

from .connection import LARGE, Connection

BUDGET = 32 * 1024 * 1024
"""Bytes of one process, for all bodies of more than LARGE bytes that are held, whole or in part."""


class LargeBodies:
    """While there are too many, one of them goes on and the others are not read from.

    Small requests are never kept waiting.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._lock = threading.Lock()
        self._free = budget
        self._first: Connection | None = None  # who goes on although nothing is free
        self._waiting: deque[Connection] = deque()

    def admit(self, connection: Connection) -> bool:
        """Whether more may be read; if not, `leave` will name the connection some day."""
        if connection.held <= LARGE:
            return True
        with self._lock:
            self._free -= connection.held - connection.charged
            connection.charged = connection.held
            connection.paused = not self._may_go_on(connection)
            if connection.paused:
                self._waiting.append(connection)
            return not connection.paused

    def _may_go_on(self, connection: Connection) -> bool:
        if self._free >= 0:
            return True
        if self._first is None:
            self._first = connection
        return self._first is connection

    def leave(self, connection: Connection) -> list[Connection]:
        """Its body is gone; who may be read from again."""
        with self._lock:
            self._free += connection.charged
            connection.charged = 0
            if self._first is connection:
                self._first = None
            resumed = []
            while self._waiting and (self._free >= 0 or self._first is None):
                successor = self._waiting.popleft()
                if not successor.closed:
                    successor.paused = not self._may_go_on(successor)
                    resumed.append(successor)
            return resumed
