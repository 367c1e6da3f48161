"""Keeps a broken machine from eating the queue.

The executor is asked now and then whether it can run jobs, and whenever it said that it cannot. If
so, the worker pauses: it takes no job, says why, and asks again until the answer is better.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from brokers.nats import NatsBroker
from executors.base import Executor
from executors.errors import ExecutorError

CHECK_SECONDS = 5.0
"""Between two questions to the executor."""

log = logging.getLogger(__name__)


class Guard:
    """Of one worker process. `told` is called when it pauses or goes on."""

    def __init__(
        self, broker: NatsBroker, executor: Executor, *, told: Callable[[], None] = lambda: None
    ) -> None:
        self._broker = broker
        self._executor = executor
        self._told = told
        self._stopped = threading.Event()
        self._asking = threading.Lock()
        self.reason = ""
        """Why the worker is paused; empty: it is not."""

    def start(self) -> None:
        """Ask now, and from now on: a worker on a broken machine begins with a pause."""
        self._ask()
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def agrees(self) -> bool:
        """Whether the machine is to blame for a job that could not be run: then there is a pause.

        Otherwise it may be the job itself, like one whose image is larger than the disk.
        """
        return not self._ask()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_SECONDS):
            self._ask()

    def _ask(self) -> bool:
        """Whether jobs can be run here."""
        with self._asking:
            try:
                self._executor.check()
            except ExecutorError as error:
                self._pause(str(error))
            except Exception as error:
                log.exception("the executor could not be asked whether it can run jobs")
                self._pause(f"{type(error).__name__}: {error}")
            else:
                self._resume()
            return not self.reason

    def _pause(self, reason: str) -> None:
        if reason != self.reason:
            log.error("the worker takes no jobs: %s", reason)
        self.reason = reason
        self._broker.pause()
        self._told()

    def _resume(self) -> None:
        if self.reason:
            log.warning("the worker takes jobs again")
            self.reason = ""
            self._broker.resume()
            self._told()
