"""What arrives at once is done together.

    put = Combining(put_many)       `put(job)` in many threads; `put_many(jobs)` does it for several

While one thread waits for NATS, others come: whoever goes next takes all that wait along. What
comes alone goes at once, by itself, and costs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 64
"""Things done in one go; the others go with the next."""


class _Waiting(Generic[T, R]):
    """One thing, and the thread that waits for it."""

    __slots__ = ("done", "error", "result", "thing", "turn")

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.result: R
        self.error: BaseException | None = None
        self.done = False
        self.turn = threading.Lock()  # released when the thing is done, or when we are to go
        self.turn.acquire()


class Combining(Generic[T, R]):
    """From "many at once" to "one", for many threads.

    `do_many` returns the results in order; what it raises is raised for all that went together.
    """

    def __init__(self, do_many: Callable[[Sequence[T]], Sequence[R]], most: int = MOST) -> None:
        self._do_many = do_many
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[T, R]] = []
        self._going = False  # whether there is somebody who goes, or has been told to

    def __call__(self, thing: T) -> R:
        """Returns, or raises, when it is done."""
        mine = _Waiting[T, R](thing)
        with self._lock:
            self._waiting.append(mine)
            first, self._going = not self._going, True
        if not first:
            mine.turn.acquire()
        if not mine.done:
            self._go()
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _go(self) -> None:
        """Do all that wait now, and send the next one for those that come meanwhile."""
        with self._lock:
            together, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        error: BaseException | None = None
        results: Sequence[R] = ()
        try:
            results = self._do_many([one.thing for one in together])
        except BaseException as raised:
            error = raised
        self._send_next()
        for index, one in enumerate(together):
            one.error, one.done = error, True
            if error is None:
                one.result = results[index]
            one.turn.release()

    def _send_next(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].turn.release()
            else:
                self._going = False
