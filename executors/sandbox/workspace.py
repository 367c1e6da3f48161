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
from executors.pulls import out_of_time, too_slow
from executors.sandbox import convert
from executors.sandbox.convert import User
from executors.sandbox.errors import (
    exec_exit_code,
    exec_failure,
    machine_errors,
    setup_failed,
)
from executors.sandbox.host import host_root
from executors.sandbox.images import Image, ImageStore
from executors.sandbox.limits import limit_pids
from executors.sandbox.manifests import ImageConfig
from executors.sandbox.network import require_network, user_network
from executors.sandbox.process import Ending, Sandbox
from executors.sandbox.spawn import Launch
from executors.sandbox.users import find_user
from executors.settings import SandboxSettings
from executors.stopping import Stopping


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
        self._stopping = Stopping()
        self._not_to_be_had: dict[str, ImageUnavailable] = {}

    def stop(self) -> None:
        """The kernel ends the processes before it tells anybody."""
        self._stopping.stop()

    def prepare(self, step: Step, sink: Sink, timeout: float | None) -> None:
        """An image in whose place the host may step is no error."""
        with self._stopping.heeded():
            self._refuse(step)
            try:
                self._image_or_why(step.image, Deadline(timeout))
            except TimeoutError as error:
                why = too_slow(step.image, timeout)
                if not self._host_steps_in(step.image, why):
                    raise why from error

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """A fresh root; only `/shared` goes from step to step."""
        deadline = Deadline(timeout)
        with self._stopping.heeded():
            self._refuse(step)
            try:
                image = self._image_or_why(step.image, deadline)
            except TimeoutError:
                return out_of_time(step.image)
            number = next(self._numbers)
            with machine_errors("preparing a step"):
                userland = self._userland(step, number, image)
            launch = self._launch(step, userland)
            sink.open(f"{self._home.name}-{number}")
            return self._run(step, sink, deadline, userland, launch)

    def _refuse(self, step: Step) -> None:
        """Raises LimitUnsupported."""
        convert.refuse_limits(step)
        if convert.wants_network(step, self._machine.settings):
            require_network()

    def _run(
        self, step: Step, sink: Sink, deadline: Deadline, userland: Userland, launch: Launch
    ) -> StepResult:
        if userland.note:
            sink.write(OutputStream.STDERR, userland.note.encode())
        with (
            Sandbox(launch) as sandbox,
            killed_after(sandbox.kill, deadline),
            self._stopping.ends(sandbox.kill),
            ExitStack() as network,
        ):
            try:
                with machine_errors("preparing a sandbox"):
                    limit_pids(sandbox.pid, step.pids_limit, self._machine.run_as)
                    if convert.wants_network(step, self._machine.settings):
                        network.enter_context(self._network(sandbox))
            except ExecutorError:
                if not sandbox.doomed:  # otherwise that is why, and its end says it better
                    raise
            self._stopping.check()
            sandbox.release()
            sandbox.pump(sink)
        return result_of(sandbox.ending())

    def _image_or_why(self, name: str, deadline: Deadline) -> Image | ImageUnavailable:
        """Why it can't be had only where the host steps in; otherwise that is raised.

        Raises TimeoutError too.
        """
        if why := self._not_to_be_had.get(name):
            return why
        try:
            return self._machine.images.get(name, deadline, self._stopping)
        except ImageUnavailable as error:
            if not self._host_steps_in(name, error):
                raise
            return error

    def _host_steps_in(self, name: str, why: ImageUnavailable) -> bool:
        """Whether the host may; then the attempt asks for the image no second time."""
        if self._machine.settings.host_fallback:
            self._not_to_be_had[name] = why
        return self._machine.settings.host_fallback

    def _userland(self, step: Step, number: int, image: Image | ImageUnavailable) -> Userland:
        """The image's, or the host's in its place. Raises StepRefused."""
        if isinstance(image, ImageUnavailable):
            return self._host_userland(step, number, image)
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
