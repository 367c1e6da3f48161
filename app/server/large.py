"""How many long bodies may be held at once, so that their memory is bounded."""

from __future__ import annotations

import threading
from collections import deque

from .connection import LARGE, Connection

PLACES = 64
"""Of one process, each for one body of more than LARGE bytes."""


class LargeBodies:
    """Who has no place is not read from until another one leaves; small requests go on."""

    def __init__(self, places: int = PLACES) -> None:
        self._lock = threading.Lock()
        self._free = places
        self._waiting: deque[Connection] = deque()

    def admit(self, connection: Connection) -> bool:
        """Whether more may be read; if not, `leave` will name the connection some day."""
        if connection.placed or connection.held <= LARGE:
            return True
        with self._lock:
            if self._free == 0:
                self._waiting.append(connection)
                return False
            self._free -= 1
            connection.placed = True
            return True

    def leave(self, connection: Connection) -> Connection | None:
        """Its body is gone; who has the place now, and may be read from."""
        with self._lock:
            if not connection.placed:
                return None
            connection.placed = False
            while self._waiting:
                successor = self._waiting.popleft()
                if not successor.closed:
                    successor.placed = True
                    return successor
            self._free += 1
            return None
