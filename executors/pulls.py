"""Pulls of images, each shared by all who wait for it and given up when nobody does any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from executors.base import StepResult
from executors.deadline import Deadline
from executors.errors import ExecutorUnavailable, ImageUnavailable
from executors.stopping import Stopping

T = TypeVar("T")

Abandoned = Callable[[], bool]
"""Whether nobody waits for the pull any more."""


class GivenUp(Exception):
    """A pull's way to end when it is abandoned; nobody sees it."""


def too_slow(image: str, seconds: float | None) -> ImageUnavailable:
    """What a pull comes to that had this much time of its own."""
    return ImageUnavailable(image, f"the pull took longer than {seconds or 0:g} seconds")


def out_of_time(image: str) -> StepResult:
    """What a step comes to whose time was up before its image was here."""
    why = f"the time was up while pulling image {image}"
    return StepResult(exit_code=None, timed_out=True, reason=why)


class _Pull(Generic[T]):
    def __init__(self) -> None:
        self.outcome: Future[T] = Future()
        self.abandoned = threading.Event()
        self.waiting = 0


class Pulls(Generic[T]):
    """By name, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Pull[T]] = {}

    def get(
        self,
        name: str,
        pull: Callable[[Abandoned], T],
        deadline: Deadline,
        stopping: Stopping,
    ) -> T:
        """What `pull` returns; it is called in a thread of its own unless it runs for another.

        Raises what it raises, TimeoutError when `deadline` is over before it is, Stopped.
        """
        with self._joined(name, pull) as running:
            woken = threading.Event()
            running.outcome.add_done_callback(lambda _: woken.set())
            with stopping.ends(woken.set):
                woken.wait(deadline.left())
            stopping.check()
            if not running.outcome.done():
                raise TimeoutError
            return running.outcome.result()

    @contextmanager
    def _joined(self, name: str, pull: Callable[[Abandoned], T]) -> Iterator[_Pull[T]]:
        with self._lock:
            running = self._running.get(name) or self._begin(name, pull)
            running.waiting += 1
        try:
            yield running
        finally:
            with self._lock:
                running.waiting -= 1
                if not running.waiting:
                    running.abandoned.set()
                    self._forget(name, running)

    def _begin(self, name: str, pull: Callable[[Abandoned], T]) -> _Pull[T]:
        begun = _Pull[T]()
        thread = threading.Thread(
            target=self._run, args=(name, begun, pull), name=f"pull {name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise ExecutorUnavailable(f"no image can be pulled: {error}") from error
        self._running[name] = begun
        return begun

    def _run(self, name: str, running: _Pull[T], pull: Callable[[Abandoned], T]) -> None:
        """Settles the outcome, whatever happens; who comes after that begins a new pull."""
        outcome = running.outcome
        try:
            settle = partial(outcome.set_result, pull(running.abandoned.is_set))
        except BaseException as error:
            settle = partial(outcome.set_exception, error)
        with self._lock:
            self._forget(name, running)
        settle()

    def _forget(self, name: str, running: _Pull[T]) -> None:
        if self._running.get(name) is running:
            del self._running[name]
