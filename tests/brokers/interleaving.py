"""Operations of several processes, interleaved request by request, in an order that a test decides.

    actor = Actor("worker A", lambda: store.claim(...))
    actor.step(Fate.ANSWERED)           up to its next request; the one that it stood at is answered

What stands for NATS calls `request(act)` for each request: outside of an actor it is answered at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from brokers.nats.errors import ConnectionClosed

T = TypeVar("T")


class Fate(Enum):
    """Of one request."""

    ANSWERED = auto()
    REQUEST_LOST = auto()
    """NATS never sees it."""
    ANSWER_LOST = auto()
    """NATS does what it was asked to; who asked does not hear of it."""
    GIVEN_UP = auto()
    """The same, and the patience of who asked is over."""
    NEVER_ASKED = auto()
    """NATS is away for longer than the patience of who asked."""


class Lost(Exception):
    """No answer has come: who asked asks again."""


class Actor:
    """One operation of one process. It stands at a request, or is over."""

    def __init__(self, name: str, operation: Callable[[], object]) -> None:
        self.name = name
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False
        self.crashed = False
        self._operation = operation
        self._greenlet = greenlet(self._run)
        self._greenlet.switch()

    def _run(self) -> None:
        try:
            self.result = self._operation()
        except GreenletExit:
            self.crashed = True
        except Exception as error:
            self.error = error
        self.over = True

    def step(self, fate: Fate = Fate.ANSWERED) -> None:
        """On to the next request."""
        assert not self.over
        self._greenlet.switch(fate)

    def crash(self) -> None:
        """The process dies where it stands."""
        self._greenlet.throw(GreenletExit)

    def finish(self) -> None:
        """To the end, without anybody or anything between."""
        while not self.over:
            self.step()


def request(act: Callable[[], T]) -> T:
    """One request to NATS. Raises Lost, ConnectionClosed, and what `act` raises."""
    here = getcurrent()
    fate = here.parent.switch() if here.parent is not None else Fate.ANSWERED
    if fate is Fate.REQUEST_LOST:
        raise Lost
    if fate is Fate.NEVER_ASKED:
        raise ConnectionClosed("NATS is away")
    if fate is Fate.ANSWERED:
        return act()
    try:
        act()
    finally:
        if fate is Fate.ANSWER_LOST:
            raise Lost
        raise ConnectionClosed("NATS is away")


def patiently(act: Callable[[], T]) -> T:
    """Ask again, as often as no answer comes."""
    while True:
        try:
            return act()
        except Lost:
            continue
