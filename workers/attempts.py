"""The attempts that run in this process, and how they are stopped from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from brokers.job_store import Lease
from executors.base import Workspace


class StopCause(StrEnum):
    """Why an attempt is stopped."""

    LOST = "lost"
    """The job's record names another attempt, or a final state."""
    DRAINED = "drained"
    """The worker has to go."""


class Running:
    """One attempt, from its claim to its end. `stop` may come at any time, from any thread."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.cause: StopCause | None = None
        self.stopping = threading.Event()
        self._workspace: Workspace | None = None
        self._lock = threading.Lock()

    def attach(self, workspace: Workspace) -> None:
        """What is to be stopped."""
        with self._lock:
            self._workspace = workspace
        if self.stopping.is_set():
            workspace.stop()

    def stop(self, cause: StopCause) -> None:
        """Kill what runs. The first cause counts."""
        with self._lock:
            self.cause = self.cause or cause
            self.stopping.set()
            workspace = self._workspace
        if workspace is not None:
            workspace.stop()


class Attempts:
    """For all threads. `changed` is called, in any of them, when there is one more or one less."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = _nothing
        self._running: dict[str, Running] = {}
        self._draining = False

    @contextmanager
    def running(self, lease: Lease) -> Iterator[Running]:
        """For as long as this process holds the lease."""
        if earlier := self._running.get(lease.job_id):
            earlier.stop(StopCause.LOST)
        attempt = self._running[lease.job_id] = Running(lease)
        if self._draining:
            attempt.stop(StopCause.DRAINED)
        self.changed()
        try:
            yield attempt
        finally:
            if self._running.get(lease.job_id) is attempt:
                del self._running[lease.job_id]
            self.changed()

    def __len__(self) -> int:
        return len(self._running)

    def all(self) -> list[Running]:
        """At this moment."""
        return list(self._running.values())

    def get(self, job_id: str) -> Running | None:
        """The attempt of this job."""
        return self._running.get(job_id)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Whether this attempt runs here."""
        running = self._running.get(job_id)
        return running is not None and running.lease.attempt == attempt

    def drain(self) -> None:
        """Stop all at once, and whatever still comes."""
        self._draining = True
        for attempt in self.all():
            threading.Thread(
                target=attempt.stop, args=(StopCause.DRAINED,), name="stop", daemon=True
            ).start()


def _nothing() -> None:
    """Nobody wants to know."""
