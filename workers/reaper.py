"""Removes what workers that died have left on this machine: at the start, and now and then."""

from __future__ import annotations

import logging
import threading

from executors.base import Executor
from executors.errors import ExecutorError

REAP_SECONDS = 60.0

log = logging.getLogger(__name__)


class Reaper:
    """Has a thread of its own from `start` on."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look at once, then every REAP_SECONDS."""
        self._thread = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _reap(self) -> None:
        while not self._stopped.is_set():
            try:
                if removed := self._executor.reap_orphans():
                    log.info("leftovers of dead workers removed", extra={"things": removed})
            except ExecutorError as error:
                log.info("leftovers of dead workers stay: %s", error)
            except Exception:
                log.exception("leftovers of dead workers stay")
            self._stopped.wait(REAP_SECONDS)
