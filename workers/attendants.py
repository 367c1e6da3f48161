"""What lives beside a worker's jobs: started before it takes any, stopped after the last one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from dramatiq import Broker, Middleware

log = logging.getLogger(__name__)


class Attendant(Protocol):
    """Has threads of its own."""

    def start(self) -> None:
        """An exception ends the worker."""

    def stop(self) -> None:
        """The threads end."""


class Attendants(Middleware):
    """Started in order, stopped in the opposite one."""

    def __init__(self, attendants: Sequence[Attendant]) -> None:
        self._attendants = attendants

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:
        """No consumer runs yet."""
        for attendant in self._attendants:
            attendant.start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        """No job runs any more."""
        for attendant in reversed(self._attendants):
            try:
                attendant.stop()
            except Exception:
                log.exception("something did not stop")
