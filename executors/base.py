"""The contract of an executor.

    executor.reap_orphans()                             what dead workers left here goes
    executor.check()                                    raises ExecutorUnavailable
    with executor.open(job, attempt) as workspace:      removes leftovers of earlier attempts
        workspace.prepare(step, sink, timeout)          once a step: its image is here
        workspace.run_step(step, sink, timeout)         once a step, in order
        workspace.stop()                                from any other thread, at any time
    executor.close()

One executor serves many jobs from many threads at once; a workspace serves one job from one thread,
but for `stop`.

A step that ran and failed is a *result* (exit code, out of memory, timed out). `StepRefused` says
that the step cannot run here, `InfrastructureError` that the machine failed, and its subclass
`ExecutorUnavailable` that it would fail any job: `check` tells when that is over. `Stopped` says
that somebody else ended the attempt. Leaving the `with` block removes all the attempt made
(containers, volumes, directories, processes), also after an exception, with time of its own;
removing twice is no error. `tests/executors/contract.py` holds every executor to this page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from executors.job import Job, Step
from executors.job import OutputStream as OutputStream

#: Prefers the image's bash, as jobs written for bash expect, and runs on images that have only a
#: POSIX shell. Takes the script as its argument: no quoting, no temporary file.
SHELL_ARGV = (
    "/bin/sh",
    "-c",
    'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec /bin/sh -c "$1"; fi',
    "hades",
)

LABEL_JOB_ID = "hades.job_id"
LABEL_ATTEMPT = "hades.attempt"
LABEL_WORKER = "hades.worker"
LABEL_OWNER = "hades.owner"
"""The worker as a process, so that others can tell that it is dead."""


class Sink(Protocol):
    """Where a step's output goes. Called from one thread at a time."""

    def open(self, container_id: str) -> None:
        """Called once, before any output, with the name by which logs call the container."""

    def write(self, stream: OutputStream, data: bytes) -> None:
        """Takes any bytes, cut anywhere. May block: a slow reader slows the step down."""


class NullSink:
    """Where output goes when no middleware takes it."""

    def open(self, container_id: str) -> None:
        """See `Sink.open`."""

    def write(self, stream: OutputStream, data: bytes) -> None:
        """See `Sink.write`."""


class TimeLimit(StrEnum):
    """Whose time was up."""

    JOB = "job"
    STEP = "step"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """How a step that was started, or should have been, ended."""

    exit_code: int | None
    """128 + n when signal n ended it; None when it did not end by itself or never started."""
    timed_out: bool = False
    oom_killed: bool = False
    reason: str = ""
    """Why it never started, or that its own time was up; otherwise empty."""
    limit: TimeLimit | None = None
    """Which one ended a step that timed out. Set around the executor, as is what follows."""
    no_image: bool = False
    """Whether it never started because its image could not be had."""
    tries: int = 1
    """Runs of the step, this one included."""

    @property
    def succeeded(self) -> bool:
        """Whether the step did what it was asked to."""
        return self.exit_code == 0 and not self.timed_out and not self.reason


class Workspace(ABC):
    """One attempt's place on the machine: its `/shared` and whatever its steps leave behind."""

    @abstractmethod
    def prepare(self, step: Step, sink: Sink, timeout: float | None) -> None:
        """Have the step's image here, pulled if it is missing, within `timeout` seconds.

        `sink` is for what there is to say meanwhile; no container is told to it yet. Raises
        ImageUnavailable, also when the time is up, StepRefused, InfrastructureError, Stopped.
        """

    @abstractmethod
    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """Run one step to its end and return when all of its output is in `sink`.

        `timeout` is in seconds, and counts from the call: when it is up, every process of the step
        is killed and the result says `timed_out`. An image that was not prepared is pulled within
        that time. Raises StepRefused, InfrastructureError, Stopped.
        """

    @abstractmethod
    def stop(self) -> None:
        """Kill what runs now, and let nothing begin any more. From any thread, idempotent, quick.

        The step or pull that is waited for in another thread ends with Stopped, when all output
        that there was is in the sink; every later call raises it too.
        """


class Executor(ABC):
    """A way to run jobs."""

    name: ClassVar[str]
    """What `HADES_EXECUTOR` calls it."""

    @abstractmethod
    def check(self) -> None:
        """Raise ExecutorUnavailable, saying what is missing, unless jobs can be run now.

        Cheap enough to be asked every few seconds, from any thread.
        """

    @abstractmethod
    def open(self, job: Job, attempt: int) -> AbstractContextManager[Workspace]:
        """A fresh workspace; leftovers of the job's earlier attempts are removed first.

        `attempt` counts from 1. Entering raises InfrastructureError.
        """

    @abstractmethod
    def reap(self, job_id: str) -> None:
        """Remove whatever any attempt of this job left on this machine. Idempotent."""

    @abstractmethod
    def reap_orphans(self) -> int:
        """Remove what attempts left on this machine whose workers are dead; how many things.

        Never touches what a living worker uses, nor what may be one's. Idempotent, from any thread.
        Raises InfrastructureError.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of connections; running workspaces are not touched. Idempotent."""
