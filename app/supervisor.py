"""Child processes that live and die together.

    with Supervisor(output) as children:        leaving the block ends them, the last one first
        children.start(program)                 once a program
        children.await_ready(timeout)           until each of them says that it is
        children.next_event()                   until one ends, or a thread of the owner's `post`s

Start them from the main thread: they are told to go when the thread that started them is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

from app.cli_settings import environment
from app.commands import Command
from brokers.embedded import die_with_parent
from executors.errors import HadesError

Output = Callable[[str, str], None]
"""Takes a program's name and one line of what it printed; called from several threads."""

_STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL


class ChildFailed(HadesError):
    """Programs ended by themselves, or did not become ready."""

    def __init__(self, names: Iterable[str], what: str) -> None:
        super().__init__(what)
        self.names = tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to start, and how to know that it is ready: by a line that it prints, or by a call."""

    name: str
    command: Command
    ready_line: str = ""
    """A part of the line; empty: `await_answer` tells."""
    await_answer: Callable[[], object] | None = None
    """Returns when the program is ready, called in a thread of its own; may block for ever."""
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A program is gone."""

    name: str
    exit_code: int
    """Negative: the signal that ended it."""

    def __str__(self) -> str:
        if self.exit_code < 0:
            return f"{self.name} was ended by {signal.Signals(-self.exit_code).name}"
        return f"{self.name} ended with exit code {self.exit_code}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    name: str


class Supervisor:
    """See this room's docstring."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._children: list[tuple[str, subprocess.Popen[str]]] = []
        self._unready: set[str] = set()
        self._events: SimpleQueue[object] = SimpleQueue()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, program: Program) -> None:
        """Returns at once."""
        child = subprocess.Popen(
            program.command.argv,
            env=environment(**program.command.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=program.pass_fds,
            process_group=0,  # Ctrl-C in a terminal reaches only us, and all of it can be killed
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )
        self._children.append((program.name, child))
        self._unready.add(program.name)
        assert child.stdout is not None
        _spawn(self._read, program, child.stdout)
        self.watch(program.name, child.wait)
        if program.await_answer is not None:
            _spawn(self._ask, program.name, program.await_answer)

    def watch(self, name: str, wait: Callable[[], int]) -> None:
        """Count something else among the children: `wait` blocks until it ends."""
        _spawn(lambda: self._events.put(Ended(name=name, exit_code=wait())))

    def post(self, event: object) -> None:
        """Hand an event to `next_event`, from any thread."""
        self._events.put(event)

    def await_ready(self, timeout: float) -> None:
        """Until all are ready. Raises ChildFailed when one ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._unready:
            try:
                self.next_event(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                names = sorted(self._unready)
                what = f"not ready after {timeout:g} s: {', '.join(names)}"
                raise ChildFailed(names, what) from None

    def next_event(self, timeout: float | None = None) -> object:
        """What is posted next, or None for "one more is ready". Raises ChildFailed, queue.Empty."""
        event = self._events.get(timeout=timeout)
        if isinstance(event, Ended):
            raise ChildFailed([event.name], f"{event}, unexpectedly")
        if isinstance(event, _Ready):
            self._unready.discard(event.name)
            return None
        return event

    def stop(self) -> None:
        """End all, in reverse order, each with all that it started; no-op the second time."""
        while self._children:
            _end(self._children.pop()[1])

    def _read(self, program: Program, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                if program.ready_line and program.ready_line in line:
                    self._events.put(_Ready(name=program.name))
                self._write(program.name, line.rstrip("\n"))

    def _write(self, name: str, line: str) -> None:
        with suppress(OSError):  # nobody may read ours any more; the child's must still be read
            self._output(name, line)

    def _ask(self, name: str, await_answer: Callable[[], object]) -> None:
        await_answer()
        self._events.put(_Ready(name=name))


def _spawn(target: Callable[..., None], *arguments: object) -> None:
    Thread(target=target, args=arguments, daemon=True).start()


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
