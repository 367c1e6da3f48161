"""Tells the others that this worker is there, and what it is up to."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from dramatiq.errors import BrokerError

from brokers.records import utc_now
from brokers.worker_registry import BEAT_SECONDS, WorkerRegistry, WorkerState, WorkerStatus

log = logging.getLogger(__name__)

Situation = tuple[WorkerState, str]
"""The state, and the reason for it."""


class Presence:
    """Has a thread of its own from `start` on; `situation` and `busy` are asked at each beat."""

    def __init__(
        self,
        registry: WorkerRegistry,
        *,
        name: str,
        executor: str,
        concurrency: int,
        situation: Callable[[], Situation],
        busy: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._situation = situation
        self._busy = busy
        self._news = threading.Event()
        self._stopped = False
        now = utc_now()
        self._status = WorkerStatus(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            executor=executor,
            version=_version(),
            concurrency=concurrency,
            started_at=now,
            seen_at=now,
        )

    def status(self) -> WorkerStatus:
        """At this moment."""
        state, reason = self._situation()
        return replace(
            self._status, busy=self._busy(), state=state, reason=reason, seen_at=utc_now()
        )

    def start(self) -> None:
        """Beat from now on."""
        self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """Something has changed: do not wait for the next beat."""
        self._news.set()

    def stop(self) -> None:
        """Say that the worker goes, and beat no more."""
        self._stopped = True
        self._news.set()
        self._thread.join(BEAT_SECONDS)

    def _beat(self) -> None:
        while not self._stopped:
            self._news.clear()
            self._try(lambda: self._registry.put(self.status()))
            self._news.wait(BEAT_SECONDS)
        self._try(lambda: self._registry.remove(self._status.name))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BrokerError as error:
            log.debug("nobody knows of this worker at the moment: %r", error)


def _version() -> str:
    try:
        return version("hades-scheduler")
    except PackageNotFoundError:
        return ""
