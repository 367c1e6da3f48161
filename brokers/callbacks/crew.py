"""Threads that take what they are given, one each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

JOIN_SECONDS = 20.0
"""How long the end waits for what is under way."""

log = logging.getLogger(__name__)


class Crew(Generic[T]):
    """The threads are daemons: one that hangs does not keep the process from ending."""

    def __init__(self, threads: int, work: Callable[[T], None]) -> None:
        self._work = work
        self._given: SimpleQueue[T | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"callback-{number}", daemon=True)
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in self._threads:
            self._given.put(None)
        deadline = monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))

    def give(self, item: T) -> None:
        """To the next thread that is free."""
        self._given.put(item)

    def _run(self) -> None:
        while (item := self._given.get()) is not None:
            try:
                self._work(item)
            except Exception:
                log.exception("a thread of the outbox goes on after an error")
