"""Stops a workspace from any thread, whatever it is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from executors.errors import ExecutorError, Stopped


class Stopping:
    """Whether a workspace was told to stop, and what has to end when it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._endings: dict[object, Callable[[], object]] = {}

    @property
    def requested(self) -> bool:
        """Whether `stop` was called."""
        return self._requested

    def stop(self) -> None:
        """End what runs now, and let nothing begin any more. Idempotent."""
        with self._lock:
            self._requested = True
            endings = tuple(self._endings.values())
        for end in endings:
            end()

    def check(self) -> None:
        """Raises Stopped after a stop."""
        if self._requested:
            raise Stopped("the attempt was stopped")

    @contextmanager
    def ends(self, end: Callable[[], object]) -> Iterator[None]:
        """A stop that comes before the block is left calls `end`, which must be quick, must not
        raise, and may be called more than once; one that came earlier has it called at once.
        """
        key = object()
        with self._lock:
            self._endings[key] = end
            late = self._requested
        if late:
            end()
        try:
            yield
        finally:
            with self._lock:
                del self._endings[key]

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Raises Stopped instead of entering after a stop, and in the place of whatever the block
        came to, result or error of an executor, when one came meanwhile.
        """
        self.check()
        try:
            yield
        except Stopped:
            raise
        except ExecutorError as error:
            if self._requested:
                raise Stopped(f"the attempt was stopped: {error}") from error
            raise
        self.check()
