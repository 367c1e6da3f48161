"""One attempt: from a step to a sandbox, and from the sandbox's end to a result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from executors.base import NullSink, OutputStream, Sink, StepResult, Workspace
from executors.deadline import Deadline, killed_after
from executors.errors import ExecutorError, ImageUnavailable
from executors.job import Job, Step
from executors.sandbox import convert
from executors.sandbox.convert import User
from executors.sandbox.errors import (
    exec_exit_code,
    exec_failure,
    machine_errors,
    setup_failed,
)
from executors.sandbox.host import host_root
from executors.sandbox.images import ImageStore
from executors.sandbox.limits import limit_pids
from executors.sandbox.manifests import ImageConfig
from executors.sandbox.network import require_network, user_network
from executors.sandbox.process import Ending, Sandbox
from executors.sandbox.spawn import Launch
from executors.sandbox.users import find_user
from executors.settings import SandboxSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What all workspaces share."""

    settings: SandboxSettings
    images: ImageStore
    program: Path
    """bwrap."""
    run_as: int | None
    """Uid and gid of the steps; None: the worker's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Userland:
    """What a step finds around it."""

    root: tuple[str, ...]
    """bwrap's options for `/`."""
    config: ImageConfig
    user: User
    note: str = ""
    """What its log says first."""


class SandboxWorkspace(Workspace):
    """One directory, and a sandbox for each step."""

    def __init__(self, machine: Machine, job: Job, home: Path) -> None:
        self._machine = machine
        self._job = job
        self._home = home
        self._numbers = itertools.count(1)

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """A fresh root; only `/shared` goes from step to step."""
        deadline = Deadline(timeout)
        convert.refuse_limits(step)
        networked = convert.wants_network(step, self._machine.settings)
        if networked:
            require_network()
        number = next(self._numbers)
        with machine_errors("preparing a step"):
            userland = self._userland(step, number)
        if deadline.over:
            why = "the time was up before the step could begin"
            return StepResult(exit_code=None, timed_out=True, reason=why)
        launch = self._launch(step, userland)
        sink.open(f"{self._home.name}-{number}")
        if userland.note:
            sink.write(OutputStream.STDERR, userland.note.encode())
        with (
            Sandbox(launch) as sandbox,
            killed_after(sandbox.kill, deadline),
            ExitStack() as network,
        ):
            try:
                limit_pids(sandbox.pid, step.pids_limit, self._machine.run_as)
                if networked:
                    network.enter_context(self._network(sandbox))
            except ExecutorError:
                if not sandbox.doomed:  # otherwise that is why, and its end says it better
                    raise
            sandbox.release()
            sandbox.pump(sink)
        return result_of(sandbox.ending())

    def _userland(self, step: Step, number: int) -> Userland:
        """The image's, or the host's in its place. Raises ImageUnavailable, StepRefused."""
        try:
            image = self._machine.images.get(step.image)
        except ImageUnavailable as error:
            if not self._machine.settings.host_fallback:
                raise
            return self._host_userland(step, number, error)
        return Userland(
            root=convert.overlay(image.rootfs, self._home / "base"),
            config=image.config,
            user=find_user(image.config.user, image.rootfs),
        )

    def _host_userland(self, step: Step, number: int, error: ImageUnavailable) -> Userland:
        return Userland(
            root=host_root(self._home / f"host-{number}", self._machine.run_as),
            config=ImageConfig(env={}),
            user=User(),
            note=f"hades: image {step.image} could not be had ({error.why}); "
            "running on the host's own userland, read-only\n",
        )

    def _launch(self, step: Step, userland: Userland) -> Launch:
        """Raises StepRefused."""
        env = convert.step_environment(self._job, step, userland.config.env, userland.user)
        return Launch(
            program=self._machine.program,
            label=label_of(self._home),
            options=convert.bwrap_options(
                root=userland.root, shared=self._home / "shared", user=userland.user, env=env
            ),
            command=convert.command(step, userland.config),
            run_as=self._machine.run_as,
        )

    @contextmanager
    def _network(self, sandbox: Sandbox) -> Iterator[None]:
        settings, run_as = self._machine.settings, self._machine.run_as
        with user_network(sandbox.pid, run_as=run_as, host_loopback=settings.host_loopback):
            yield


def label_of(home: Path) -> str:
    """What the process list calls the sandboxes of the attempt in this directory."""
    return f"hades-sandbox {home.name}"


def try_out(machine: Machine, home: Path) -> None:
    """Run `true` on the host's userland. Raises InfrastructureError, OSError."""
    root = host_root(home / "host", machine.run_as)
    env = {"PATH": convert.DEFAULT_PATH}
    launch = Launch(
        program=machine.program,
        label=label_of(home),
        options=convert.bwrap_options(root=root, shared=home / "shared", user=User(), env=env),
        command=("true",),
        run_as=machine.run_as,
    )
    with Sandbox(launch) as sandbox:
        sandbox.release()
        sandbox.pump(NullSink())
    ending = sandbox.ending()
    if ending.exit_code != 0:
        raise setup_failed(ending.words)


def result_of(ending: Ending) -> StepResult:
    """Raises InfrastructureError when the step never had its chance."""
    if ending.killed:
        return StepResult(exit_code=None, timed_out=True)
    if ending.exit_code is not None:
        return StepResult(exit_code=ending.exit_code)
    failure = exec_failure(ending.words)
    if failure is None:
        raise setup_failed(ending.words)
    return StepResult(exit_code=exec_exit_code(failure), reason=failure)
