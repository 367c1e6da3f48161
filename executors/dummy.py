"""Runs no process: a step's script says, line by line, what its container would have done.

    echo TEXT | err TEXT        a line on stdout or stderr
    env NAME | pwd              a variable's value; the working directory
    hex BYTES | repeat N TEXT   bytes as they are; TEXT N times without a line's end
    write FILE TEXT | cat FILE  a file, kept for the next step if it is below /shared
    sleep SECONDS               waits, or until the step's time is up
    true | false | exit N       as a shell has them; a script's last line gives its exit code
    fail TEXT | refuse TEXT     raises InfrastructureError, StepRefused

Every image is there unless its name contains `no-such-image`, or `slow-image-SECONDS`: that one is
pulled first, and takes its time. Limits are accepted, since there is nothing to limit.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from posixpath import join
from typing import NoReturn

from executors.base import Executor, OutputStream, Sink, StepResult, Workspace
from executors.errors import ImageUnavailable, InfrastructureError, LimitUnsupported, StepRefused
from executors.job import SHARED_DIR, Job, Step, environment
from executors.pulls import out_of_time, too_slow
from executors.stopping import Stopping

NOT_FOUND = 127
_SLOW = re.compile(r"slow-image-([0-9.]+)")


class DummyExecutor(Executor):
    """Keeps nothing but the workspaces that are open."""

    name = "dummy"

    def __init__(self) -> None:
        self.workspaces: dict[str, DummyWorkspace] = {}
        self.pulled: set[str] = set()

    def check(self) -> None:
        """Always ready."""

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        """An empty `/shared` in memory."""
        workspace = self.workspaces[job.id] = DummyWorkspace(job, self.pulled)
        try:
            yield workspace
        finally:
            if self.workspaces.get(job.id) is workspace:
                self.reap(job.id)

    def reap(self, job_id: str) -> None:
        """Also ends a step that sleeps."""
        if workspace := self.workspaces.pop(job_id, None):
            workspace.woken.set()

    def reap_orphans(self) -> int:
        """What is kept in memory dies with its worker."""
        return 0


@dataclass(frozen=True, slots=True)
class DummyWorkspace(Workspace):
    """The files below `/shared`, by their full names."""

    job: Job
    pulled: set[str] = field(default_factory=set)
    shared: dict[str, str] = field(default_factory=dict)
    stopping: Stopping = field(default_factory=Stopping)
    woken: threading.Event = field(default_factory=threading.Event)
    """Set when the workspace is removed or stopped."""

    def prepare(self, step: Step, sink: Sink, timeout: float | None) -> None:
        """Takes time only for a slow image."""
        with self.stopping.heeded():
            refuse(step)
            if self.pull(step.image, timeout) is None:
                raise too_slow(step.image, timeout)

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """One line after the other."""
        with self.stopping.heeded():
            refuse(step)
            spent = self.pull(step.image, timeout)
            if spent is None:
                return out_of_time(step.image)
            sink.open(f"dummy-{step.label}")
            self.stopping.check()
            return self._run(step, sink, None if timeout is None else timeout - spent)

    def stop(self) -> None:
        """Also ends a step that sleeps."""
        self.stopping.stop()
        self.woken.set()

    def pull(self, image: str, timeout: float | None) -> float | None:
        """Seconds that it took; None when there were too few. Raises ImageUnavailable."""
        if "no-such-image" in image:
            raise ImageUnavailable(image, "the dummy has no image of this name")
        slow = None if image in self.pulled else _SLOW.search(image)
        seconds = float(slow[1]) if slow else 0.0
        if timeout is not None and seconds > timeout:
            self.sleep(timeout)
            return None
        self.sleep(seconds)
        self.pulled.add(image)
        return seconds

    def sleep(self, seconds: float) -> None:
        """Raises Stopped, and InfrastructureError when the workspace is removed meanwhile."""
        if self.woken.wait(seconds):
            self.stopping.check()
            raise InfrastructureError("the workspace was removed under its step")

    def _run(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        container = _Container(self, step, sink)
        result = container.run(step.script, timeout)
        files = container.files.items()
        self.shared.update(
            {name: text for name, text in files if name.startswith(f"{SHARED_DIR}/")}
        )
        return result


def refuse(step: Step) -> None:
    """Raises LimitUnsupported, as a real executor would."""
    if step.network == "host":
        raise LimitUnsupported("network", "host would not be isolated")


class _Ended(Exception):
    """The script goes no further."""

    def __init__(self, result: StepResult) -> None:
        self.result = result


class _Container:
    """What a script can see and change."""

    def __init__(self, workspace: DummyWorkspace, step: Step, sink: Sink) -> None:
        self.env, self.files = environment(workspace.job, step), dict(workspace.shared)
        self.sink, self.wait = sink, workspace.sleep
        self.left: float | None = None
        self.commands: dict[str, Callable[[str], int]] = {
            "echo": lambda text: self.out(f"{text}\n".encode()),
            "err": lambda text: self.out(f"{text}\n".encode(), OutputStream.STDERR),
            "env": lambda name: self.out(f"{self.env.get(name, '')}\n".encode()),
            "pwd": lambda _: self.out(f"{SHARED_DIR}\n".encode()),
            "hex": lambda digits: self.out(bytes.fromhex(digits)),
            "repeat": lambda rest: self.out(_repeated(*rest.split(" ", 1)).encode()),
            "write": lambda rest: self.write(*rest.split(" ", 1)),
            "cat": self.cat,
            "sleep": lambda seconds: self.sleep(float(seconds)),
            "true": lambda _: 0,
            "false": lambda _: 1,
            "exit": lambda code: _raise(_Ended(StepResult(exit_code=int(code)))),
            "fail": lambda text: _raise(InfrastructureError(text)),
            "refuse": lambda text: _raise(StepRefused(text)),
        }

    def run(self, script: str, timeout: float | None) -> StepResult:
        """Time passes only in `sleep`."""
        self.left = timeout
        code = 0
        try:
            for line in filter(None, map(str.strip, script.splitlines())):
                name, _, rest = line.partition(" ")
                code = self.commands[name](rest) if name in self.commands else self.unknown(name)
        except _Ended as end:
            return end.result
        return StepResult(exit_code=code)

    def unknown(self, name: str) -> int:
        self.out(f"{name}: not found\n".encode(), OutputStream.STDERR)
        return NOT_FOUND

    def sleep(self, seconds: float) -> int:
        limit = seconds if self.left is None else min(seconds, self.left)
        self.wait(limit)
        if self.left is not None:
            self.left -= limit
            if self.left <= 0:
                raise _Ended(StepResult(exit_code=None, timed_out=True))
        return 0

    def out(self, data: bytes, stream: OutputStream = OutputStream.STDOUT) -> int:
        """Like every command, returns its exit code."""
        self.sink.write(stream, data)
        return 0

    def write(self, name: str, text: str = "") -> int:
        self.files[join(SHARED_DIR, name)] = text
        return 0

    def cat(self, name: str) -> int:
        text = self.files.get(join(SHARED_DIR, name))
        if text is None:
            self.out(f"cat: {name}: No such file\n".encode(), OutputStream.STDERR)
            return 1
        return self.out(f"{text}\n".encode())


def _repeated(times: str, text: str) -> str:
    return text * int(times)


def _raise(error: Exception) -> NoReturn:
    raise error
