"""Looks whether what runs here is still to run: a stopped job is killed, and so is a lost attempt.

It looks when somebody hints at a job, after every reconnect, and now and then in any case.
"""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue

from brokers.control import Control
from brokers.job_store import JobStore
from workers.attempts import Attempts, Running, StopCause

LOOK_SECONDS = 10.0
"""Between two looks at every record that is of interest here."""
_EVERYTHING = ""

log = logging.getLogger(__name__)


class Watcher:
    """Has a thread of its own from `start` on."""

    def __init__(self, store: JobStore, control: Control, attempts: Attempts, worker: str) -> None:
        self._store = store
        self._control = control
        self._attempts = attempts
        self._worker = worker
        self._hints: SimpleQueue[str | None] = SimpleQueue()

    def start(self) -> None:
        """Raises ConnectionFailed."""
        self._control.listen(self._worker, self._hints.put, self._attempts.holds)
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._hints.put(None)

    def _watch(self) -> None:
        while True:
            try:
                hint = self._hints.get(timeout=LOOK_SECONDS)
            except Empty:
                hint = _EVERYTHING
            if hint is None:
                return
            try:
                self._look(hint)
            except Exception:
                log.warning("a record could not be looked at", exc_info=True)

    def _look(self, job_id: str) -> None:
        if job_id == _EVERYTHING:
            attempts = self._attempts.all()
        else:
            attempts = [attempt for attempt in (self._attempts.get(job_id),) if attempt]
        for attempt in attempts:
            self._check(attempt)

    def _check(self, attempt: Running) -> None:
        if self._store.is_current(attempt.lease):
            return
        log.info("an attempt is stopped", extra={"job_id": attempt.lease.job_id})
        # In a thread of its own: a hung Engine keeps nothing else alive.
        threading.Thread(
            target=attempt.stop, args=(StopCause.LOST,), name="stop", daemon=True
        ).start()
