"""How a worker goes: it finishes what runs within a grace period, and hands back the rest.

The first SIGTERM ends the taking of jobs; after `grace` seconds, or at the second SIGTERM, what
still runs is killed and goes back to the queue. That is not counted as an attempt that failed.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

from dramatiq import Broker, Middleware

from workers.attempts import Attempts

SAME_SIGNAL_SECONDS = 1.0
"""Service managers signal each process, and the first process signals the others once more."""

log = logging.getLogger(__name__)


class Drain(Middleware):
    """Of one worker process. `grace` is in seconds."""

    def __init__(self, attempts: Attempts, *, grace: float) -> None:
        self._attempts = attempts
        self._grace = grace
        self._signalled_at: float | None = None
        self.draining = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Any) -> None:
        """Dramatiq's own second SIGTERM would drop everything."""
        if threading.current_thread() is not threading.main_thread():
            return
        previous = signal.getsignal(signal.SIGTERM)
        if callable(previous):
            signal.signal(signal.SIGTERM, self._handler(previous))

    def _handler(
        self, previous: Callable[[int, FrameType | None], Any]
    ) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            now = monotonic()
            if self._signalled_at is None:
                self._signalled_at = now
                previous(number, frame)
            elif now - self._signalled_at > SAME_SIGNAL_SECONDS:
                threading.Thread(target=self.now, name="drain", daemon=True).start()

        return handle

    def before_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        """From now on the time runs."""
        self.draining.set()
        timer = threading.Timer(self._grace, self.now)
        timer.daemon = True
        timer.start()

    def now(self) -> None:
        """Hand back whatever runs."""
        if len(self._attempts):
            log.warning("the worker stops its jobs and hands them back")
        self._attempts.drain()
