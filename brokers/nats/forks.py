"""What a forked child must not share with its parent: sockets, threads, ids."""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Callable
from typing import Any


def after_fork(method: Callable[[], None]) -> None:
    """Call a bound method in every child; its object may be forgotten meanwhile."""
    reference: Any = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=call)


class Ids:
    """Ids that no other process and no other object gives out."""

    def __init__(self) -> None:
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()

    def next(self) -> str:
        """A new one."""
        return f"{self._prefix}-{next(self._numbers)}"
