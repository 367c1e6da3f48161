"""Runs no process: a step's script says, line by line, what its container would have done.

    echo TEXT | err TEXT        a line on stdout or stderr
    env NAME | pwd              a variable's value; the working directory
    hex BYTES | repeat N TEXT   bytes as they are; TEXT N times without a line's end
    write FILE TEXT | cat FILE  a file, kept for the next step if it is below /shared
    sleep SECONDS               waits, or until the step's time is up
    true | false | exit N       as a shell has them; a script's last line gives its exit code
    fail TEXT | refuse TEXT     raises InfrastructureError, StepRefused

Every image is there unless its name contains `no-such-image`; limits are accepted, since there is
nothing to limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from posixpath import join

from executors.base import Executor, OutputStream, Sink, StepResult, Workspace
from executors.errors import ImageUnavailable, InfrastructureError, LimitUnsupported, StepRefused
from executors.job import SHARED_DIR, Job, Step, environment

NOT_FOUND = 127


class DummyExecutor(Executor):
    """Keeps nothing but the workspaces that are open."""

    name = "dummy"

    def __init__(self) -> None:
        self.workspaces: dict[str, DummyWorkspace] = {}

    def check(self) -> None:
        """Always ready."""

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        """An empty `/shared` in memory."""
        workspace = self.workspaces[job.id] = DummyWorkspace(job)
        try:
            yield workspace
        finally:
            if self.workspaces.get(job.id) is workspace:
                self.reap(job.id)

    def reap(self, job_id: str) -> None:
        """Also ends a step that sleeps."""
        if workspace := self.workspaces.pop(job_id, None):
            workspace.gone.set()


@dataclass(frozen=True, slots=True)
class DummyWorkspace(Workspace):
    """The files below `/shared`, by their full names."""

    job: Job
    shared: dict[str, str] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """One line after the other."""
        if "no-such-image" in step.image:
            raise ImageUnavailable(step.image, "the dummy has no image of this name")
        if step.network == "host":
            raise LimitUnsupported("network", "host would not be isolated")
        sink.open(f"dummy-{step.label}")
        container = _Container(environment(self.job, step), dict(self.shared), sink, timeout)
        result = container.run(step.script, self.gone)
        files = container.files.items()
        self.shared.update(
            {name: text for name, text in files if name.startswith(f"{SHARED_DIR}/")}
        )
        return result


class _Container:
    """What a script can see and change."""

    def __init__(
        self, env: dict[str, str], files: dict[str, str], sink: Sink, timeout: float | None
    ) -> None:
        self.env, self.files, self.sink, self.left = env, files, sink, timeout
        self.commands: dict[str, Callable[[str], int]] = {
            "echo": lambda text: self.out(f"{text}\n".encode()),
            "err": lambda text: self.out(f"{text}\n".encode(), OutputStream.STDERR),
            "env": lambda name: self.out(f"{self.env.get(name, '')}\n".encode()),
            "pwd": lambda _: self.out(f"{SHARED_DIR}\n".encode()),
            "hex": lambda digits: self.out(bytes.fromhex(digits)),
            "repeat": lambda rest: self.out(_repeated(*rest.split(" ", 1)).encode()),
            "write": lambda rest: self.write(*rest.split(" ", 1)),
            "cat": self.cat,
            "true": lambda _: 0,
            "false": lambda _: 1,
            "fail": _raise(InfrastructureError),
            "refuse": _raise(StepRefused),
        }

    def run(self, script: str, gone: threading.Event) -> StepResult:
        """`gone` ends it as a kill would."""
        code = 0
        for line in filter(None, map(str.strip, script.splitlines())):
            command, _, rest = line.partition(" ")
            if command == "exit":
                return StepResult(exit_code=int(rest))
            if command == "sleep":
                seconds = float(rest)
                if gone.wait(seconds if self.left is None else min(seconds, self.left)):
                    raise InfrastructureError("the workspace was removed under its step")
                if self.left is not None and (left := self.left - seconds) <= 0:
                    return StepResult(exit_code=None, timed_out=True)
                self.left = None if self.left is None else left
                code = 0
            elif run := self.commands.get(command):
                code = run(rest)
            else:
                code = NOT_FOUND
                self.out(f"{command}: not found\n".encode(), OutputStream.STDERR)
        return StepResult(exit_code=code)

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


def _raise(error: type[Exception]) -> Callable[[str], int]:
    def command(text: str) -> int:
        raise error(text)

    return command
