"""How many callbacks are under way to each host."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Hosts:
    """Of this process. One host that hangs keeps `limit` threads at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way = Counter[str]()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, url: str) -> Iterator[bool]:
        """Whether there is one; it is held until the block is left."""
        host = host_of(url)
        if not self._enter(host):
            yield False
            return
        try:
            yield True
        finally:
            self._leave(host)

    def _enter(self, host: str) -> bool:
        with self._lock:
            if self._under_way[host] >= self._limit:
                return False
            self._under_way[host] += 1
            return True

    def _leave(self, host: str) -> None:
        with self._lock:
            self._under_way[host] -= 1
            if not self._under_way[host]:
                del self._under_way[host]


def host_of(url: str) -> str:
    """Host and port; empty for what is no URL."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""
