"""What happens around each step: a chain of step middleware.

A step middleware is called with the step's context and the rest of the chain, and returns the
step's result. It may change the context on the way in and the result on the way out: the place for
timeouts, masking, logs, metrics and whatever an installation adds.

    deadline = Deadline(at)
    layers = [StepLogs(batcher), Masking(secrets), Retrying(wait, deadline.left), Refusals()]
    layers += [deadline, Preparing(pull_timeout, deadline.extend), Asking(still_ours)]
    call = chain(layers, run_in_workspace)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import monotonic
from typing import Protocol

from executors.base import Sink, StepResult, TimeLimit, Workspace
from executors.errors import ImageUnavailable, StepRefused, Stopped
from executors.job import Job, Step
from executors.logs import LineSink, LogBatcher
from executors.redact import MaskingSink, mask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """One step about to run."""

    job: Job
    step: Step
    index: int
    """Position of the step in its job, from 0."""
    workspace: Workspace
    sink: Sink
    timeout: float | None = None
    """Seconds that are left for it; None: no limit."""


StepCall = Callable[[StepContext], StepResult]


class StepMiddleware(Protocol):
    """Wraps every step of an attempt."""

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        """Call `proceed` with the context, or not, and say how the step ended."""


def chain(middleware: Sequence[StepMiddleware], last: StepCall) -> StepCall:
    """One call through all of them, the first being the outermost."""
    call = last
    for layer in reversed(middleware):
        call = partial(_through, layer, call)
    return call


def _through(layer: StepMiddleware, proceed: StepCall, context: StepContext) -> StepResult:
    return layer(context, proceed)


def run_in_workspace(context: StepContext) -> StepResult:
    """The end of every chain."""
    return context.workspace.run_step(context.step, context.sink, context.timeout)


class StepLogs:
    """Sends each step's output to the batcher, and its reason when it did not succeed."""

    def __init__(self, batcher: LogBatcher, *, limit: int) -> None:
        self._batcher = batcher
        self._limit = limit

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        sink = LineSink(self._batcher, context.index, limit=self._limit)
        try:
            result = proceed(replace(context, sink=sink))
            if result.reason:
                sink.say(f"hades: {result.reason}")
            return result
        except Stopped:
            sink.say("hades: stopped")
            raise
        finally:
            sink.close()


class Masking:
    """Replaces the job's secrets in its output, and in the reason why a step did not start."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = frozenset(secrets)

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        if not self._secrets:
            return proceed(context)
        sink = MaskingSink(context.sink, self._secrets)
        try:
            result = proceed(replace(context, sink=sink))
        finally:
            sink.close()
        return replace(result, reason=mask(result.reason, self._secrets))


class Refusals:
    """Turns a step that cannot run here into its result: it failed, with a reason."""

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        try:
            return proceed(context)
        except StepRefused as error:
            log.info("step refused", extra={"job_id": context.job.id, "step": context.index})
            no_image = isinstance(error, ImageUnavailable)
            return StepResult(exit_code=None, reason=str(error), no_image=no_image)


class Deadline:
    """Gives each run of a step its own time or what is left of the job's, whichever ends first.

    `at`, of `time.monotonic`, is when the job's time is up. The result of a step that timed out
    says whose time it was, and for the step's own has the reason.
    """

    def __init__(self, at: float | None) -> None:
        self._at = at

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        left = self.left()
        if left <= 0:
            return StepResult(exit_code=None, timed_out=True, limit=TimeLimit.JOB)
        own = context.step.timeout_seconds or inf
        timeout = min(own, left)
        result = proceed(replace(context, timeout=None if timeout == inf else timeout))
        if not result.timed_out:
            return result
        if left <= own:
            return replace(result, limit=TimeLimit.JOB)
        return replace(result, limit=TimeLimit.STEP, reason=_overtime(context.step, result))

    def left(self) -> float:
        """Seconds of the job's time; infinite without a limit."""
        return inf if self._at is None else self._at - monotonic()

    def extend(self, seconds: float) -> None:
        """Give the job back time that was not its own."""
        if self._at is not None:
            self._at += seconds


class Preparing:
    """Has each step's image here before its time begins to count.

    The step keeps the `timeout` that it came with; the time that the image took is told to
    `not_counted`, also when it never came, for those who count from the job's start.
    """

    def __init__(self, pull_timeout: float, not_counted: Callable[[float], None]) -> None:
        """`pull_timeout` is in seconds, for each image."""
        self._pull_timeout = pull_timeout
        self._not_counted = not_counted

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        started = monotonic()
        try:
            context.workspace.prepare(context.step, context.sink, self._pull_timeout)
        finally:
            self._not_counted(monotonic() - started)
        return proceed(context)


class Asking:
    """Asks, at the last moment before a step begins, whether it still may: `ask` raises if not."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        self._ask()
        return proceed(context)


def _overtime(step: Step, result: StepResult) -> str:
    text = f"step {step.label} timed out after {step.timeout_seconds} seconds"
    return f"{text}: {result.reason}" if result.reason else text
