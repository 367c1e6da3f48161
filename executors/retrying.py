"""Runs a step again when its job says so: in the same workspace, after a pause."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf

from executors.base import OutputStream, Sink, StepResult
from executors.job import Retry, RetryOn
from executors.steps import StepCall, StepContext

log = logging.getLogger(__name__)


def _ages() -> float:
    """There is no limit."""
    return inf


class Retrying:
    """Outside of `Deadline` and `Refusals`, so that each run has a limit and an end of its own.

    `wait` is called with the seconds of a pause. It may return early, and it may raise, which ends
    the step. `left` says how many seconds the job has left: no run begins after them.
    """

    def __init__(self, wait: Callable[[float], object], left: Callable[[], float] = _ages) -> None:
        self._wait = wait
        self._left = left

    def __call__(self, context: StepContext, proceed: StepCall) -> StepResult:
        retry = context.step.retry
        sink = _OneSlot(context.sink)
        tries = 1
        result = proceed(replace(context, sink=sink))
        while tries <= retry.max and self._again(retry, tries, result):
            sink.say(*_told(result, retry, tries))
            _log_retry(context, tries)
            self._wait(retry.pause(tries))
            tries += 1
            result = proceed(replace(context, sink=sink))
        return replace(result, tries=tries)

    def _again(self, retry: Retry, tries: int, result: StepResult) -> bool:
        in_time = retry.pause(tries) < self._left()
        return in_time and not ends_of(result).isdisjoint(retry.on)


def ends_of(result: StepResult) -> frozenset[RetryOn]:
    """What a `retry` may name to have this run repeated; empty for one that succeeded."""
    found = {
        RetryOn.FAILURE: bool(result.exit_code),
        RetryOn.TIMEOUT: result.timed_out,
        RetryOn.OOM: result.oom_killed,
        RetryOn.IMAGE: result.no_image,
    }
    return frozenset(end for end, true in found.items() if true)


def _told(result: StepResult, retry: Retry, number: int) -> list[str]:
    seconds = f"{retry.pause(number):g}"
    reasons = [result.reason] if result.reason else []
    return [*reasons, f"retry {number} of {retry.max} in {seconds} s"]


def _log_retry(context: StepContext, number: int) -> None:
    fields = {"job_id": context.job.id, "step": context.index, "retry": number}
    log.info("step is run again", extra=fields)


class _OneSlot:
    """All runs of a step write into the log's one slot for it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._opened = False
        self._amid_line = dict.fromkeys(OutputStream, False)

    def open(self, container_id: str) -> None:
        """The first container gives the slot its name."""
        if not self._opened:
            self._opened = True
            self._sink.open(container_id)

    def write(self, stream: OutputStream, data: bytes) -> None:
        """See `Sink.write`."""
        if data:
            self._amid_line[stream] = not data.endswith(b"\n")
            self._sink.write(stream, data)

    def say(self, *lines: str) -> None:
        """Lines of ours, on the step's standard error; what the last run left open is ended."""
        for stream, open_line in self._amid_line.items():
            if open_line:
                self.write(stream, b"\n")
        for line in lines:
            self.write(OutputStream.STDERR, f"hades: {line}\n".encode(errors="replace"))
