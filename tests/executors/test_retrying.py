"""A step that is run again."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from math import inf

import pytest

from executors.base import NullSink, OutputStream, StepResult, TimeLimit
from executors.dummy import DummyExecutor
from executors.errors import ExecutorError, ImageUnavailable, InfrastructureError, StepRefused
from executors.job import Job, LogBatch, Retry, RetryOn, Step
from executors.logs import LogBatcher
from executors.retrying import Retrying, ends_of
from executors.secrets import MASK
from executors.steps import (
    Deadline,
    Masking,
    Refusals,
    StepContext,
    StepLogs,
    chain,
    run_in_workspace,
)

DONE = StepResult(exit_code=0)
FAILED = StepResult(exit_code=1)
TIMED_OUT = StepResult(exit_code=None, timed_out=True)
OUT_OF_MEMORY = StepResult(exit_code=137, oom_killed=True)
NO_IMAGE = StepResult(exit_code=None, reason="not found", no_image=True)
REFUSED = StepResult(exit_code=None, reason="cannot be held")
ALL = tuple(RetryOn)


class Runs:
    """Ends one run after the other as it is told, and takes down every pause."""

    def __init__(self, *ends: StepResult | Exception) -> None:
        self._ends = list(ends)
        self.contexts: list[StepContext] = []
        self.pauses: list[float] = []

    def __call__(self, context: StepContext) -> StepResult:
        self.contexts.append(context)
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    def of(self, retry: Retry, left: float = inf) -> StepResult:
        return chain([Retrying(self.pauses.append, lambda: left)], self)(context_of(retry=retry))


def context_of(**step: object) -> StepContext:
    only = Step(**{"image": "i", **step})
    with DummyExecutor().open(job := Job(id="a-job", name="n", steps=(only,)), 1) as workspace:
        return StepContext(job=job, step=only, index=0, workspace=workspace, sink=NullSink())


def test_a_step_that_asks_for_nothing_runs_once() -> None:
    runs = Runs(FAILED)
    assert runs.of(Retry()) == FAILED
    assert runs.pauses == []


def test_a_step_is_run_again_until_it_succeeds_in_the_same_workspace() -> None:
    runs = Runs(FAILED, FAILED, DONE)
    assert runs.of(Retry(max=5, backoff_seconds=1.5)) == replace(DONE, tries=3)
    assert runs.pauses == [1.5, 3]
    assert len({id(context.workspace) for context in runs.contexts}) == 1


def test_the_last_of_its_runs_is_its_result() -> None:
    runs = Runs(FAILED, FAILED, StepResult(exit_code=3))
    assert runs.of(Retry(max=2)) == StepResult(exit_code=3, tries=3)


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (RetryOn.FAILURE, FAILED),
        (RetryOn.FAILURE, OUT_OF_MEMORY),
        (RetryOn.TIMEOUT, TIMED_OUT),
        (RetryOn.OOM, OUT_OF_MEMORY),
        (RetryOn.IMAGE, NO_IMAGE),
    ],
)
def test_a_step_is_run_again_after_an_end_that_it_names(end, result) -> None:
    assert Runs(result, DONE).of(Retry(max=1, on=(end,))) == replace(DONE, tries=2)
    others = tuple(set(ALL) - ends_of(result))
    assert Runs(result).of(Retry(max=1, on=others)) == result


@pytest.mark.parametrize("result", [DONE, REFUSED])
def test_success_and_what_can_never_run_are_not_tried_again(result) -> None:
    assert Runs(result).of(Retry(max=10, on=ALL)) == result


def test_no_run_begins_when_the_jobs_time_is_up_or_would_be_after_the_pause() -> None:
    for left, pause in ((-1.0, 0.0), (100.0, 101.0)):
        runs = Runs(FAILED)
        assert runs.of(Retry(max=1, backoff_seconds=pause), left) == FAILED
        assert runs.pauses == []
    assert Runs(FAILED, DONE).of(Retry(max=1), 100.0).tries == 2


def test_what_a_pause_or_a_run_raises_ends_the_step() -> None:
    class Stopped(ExecutorError):
        pass

    def interrupted(seconds: float) -> None:
        raise Stopped

    call = chain([Retrying(interrupted)], Runs(FAILED))
    with pytest.raises(Stopped):
        call(context_of(retry=Retry(max=1)))
    with pytest.raises(InfrastructureError):
        Runs(FAILED, InfrastructureError("no disk")).of(Retry(max=2))


def logged(last, secrets: tuple[str, ...] = (), **step) -> tuple[list[LogBatch], StepResult]:
    """Log and result of a step that runs through the worker's chain."""
    batches: list[LogBatch] = []
    with closing(LogBatcher("a-job", 1, batches.append)) as batcher:
        layers = [
            StepLogs(batcher, limit=1 << 20),
            Masking(secrets),
            Retrying(lambda seconds: None),
            Refusals(),
            Deadline(None),
        ]
        context = context_of(**step)
        with DummyExecutor().open(context.job, 1) as workspace:
            result = chain(layers, last)(replace(context, workspace=workspace))
    return batches, result


def lines(batches: list[LogBatch]) -> list[tuple[str, str]]:
    return [(entry.output_stream, entry.message) for batch in batches for entry in batch.entries]


def test_each_retry_is_told_in_the_steps_log() -> None:
    retry = Retry(max=2, backoff_seconds=5)
    batches, result = logged(run_in_workspace, script="echo run\nexit 3", retry=retry)
    assert result == StepResult(exit_code=3, tries=3)
    assert lines(batches) == [
        ("stdout", "run"),
        ("stderr", "hades: retry 1 of 2 in 5 s"),
        ("stdout", "run"),
        ("stderr", "hades: retry 2 of 2 in 10 s"),
        ("stdout", "run"),
    ]


def test_why_a_run_never_started_is_told_before_its_retry() -> None:
    retry = Retry(max=1, on=(RetryOn.IMAGE,))
    batches, result = logged(run_in_workspace, image="no-such-image", retry=retry)
    assert (result.no_image, result.tries) == (True, 2)
    told = [line for _, line in lines(batches)]
    assert told == [f"hades: {result.reason}", "hades: retry 1 of 1 in 0 s", told[0]]


def test_all_runs_of_a_step_share_its_one_slot() -> None:
    names = iter(("first", "second"))

    def last(context: StepContext) -> StepResult:
        context.sink.open(next(names))
        context.sink.write(OutputStream.STDOUT, b"x\n")
        return FAILED

    batches, _ = logged(last, retry=Retry(max=1))
    assert {batch.container_id for batch in batches} == {"first"}


def test_lines_that_a_run_left_open_are_ended_before_the_next() -> None:
    def last(context: StepContext) -> StepResult:
        context.sink.open("c")
        context.sink.write(OutputStream.STDOUT, b"out")
        context.sink.write(OutputStream.STDOUT, b"")
        context.sink.write(OutputStream.STDERR, b"err\xc3")
        return FAILED

    batches, _ = logged(last, retry=Retry(max=1))
    told = ["out", "err\ufffd", "hades: retry 1 of 1 in 0 s", "out", "err\ufffd"]
    assert [line for _, line in lines(batches)] == told


def test_a_secret_in_the_reason_of_an_earlier_run_is_masked() -> None:
    ends = iter((ImageUnavailable("i", "no s3cret"), StepRefused("no s3cret")))

    def last(context: StepContext) -> StepResult:
        raise next(ends)

    retry = Retry(max=1, on=(RetryOn.IMAGE,))
    batches, result = logged(last, secrets=("s3cret",), retry=retry)
    assert result == StepResult(exit_code=None, reason=f"no {MASK}", tries=2)
    assert "s3cret" not in repr(batches)
    assert len(lines(batches)) == 3


def test_each_run_has_the_steps_own_time() -> None:
    timeouts: list[float | None] = []

    def last(context: StepContext) -> StepResult:
        timeouts.append(context.timeout)
        return TIMED_OUT

    retry = Retry(max=1, on=(RetryOn.TIMEOUT,))
    _, result = logged(last, name="slow", timeout_seconds=7, retry=retry)
    assert timeouts == [7, 7]
    assert (result.limit, result.tries) == (TimeLimit.STEP, 2)
    assert result.reason == "step slow timed out after 7 seconds"
