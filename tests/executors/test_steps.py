"""The chain around each step."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from time import monotonic, sleep

import pytest

from executors.base import NullSink, StepResult, TimeLimit, Workspace
from executors.dummy import DummyExecutor
from executors.errors import ImageUnavailable, InfrastructureError, Stopped
from executors.job import Job, LogBatch, OutputStream, Step
from executors.logs import LogBatcher
from executors.secrets import MASK
from executors.steps import (
    Deadline,
    Masking,
    Preparing,
    Refusals,
    StepContext,
    StepLogs,
    chain,
    run_in_workspace,
)

DONE = StepResult(exit_code=0)


class NoWorkspace(Workspace):
    """For chains that do not get that far."""

    def prepare(self, step, sink, timeout) -> None:
        raise AssertionError("no image was to be pulled")

    def run_step(self, step, sink, timeout) -> StepResult:
        raise AssertionError("no step was to run")

    def stop(self) -> None:
        raise AssertionError("nothing was to be stopped")


def context(
    script: str = "", workspace: Workspace | None = None, image: str = "i", **fields
) -> StepContext:
    step = Step(image=image, script=script, **fields)
    return StepContext(
        job=Job(id="a-job", name="n", steps=(step,)),
        step=step,
        index=0,
        workspace=workspace or NoWorkspace(),
        sink=NullSink(),
    )


def test_the_first_of_a_chain_is_the_outermost() -> None:
    told: list[str] = []

    def layer(name: str):
        def call(context, proceed):
            told.append(f"into {name}")
            result = proceed(context)
            told.append(f"out of {name}")
            return result

        return call

    def last(context):
        told.append("step")
        return DONE

    assert chain([layer("a"), layer("b")], last)(context()) == DONE
    assert told == ["into a", "into b", "step", "out of b", "out of a"]


def test_a_layer_may_change_the_context_and_the_result() -> None:
    def hurry(context, proceed):
        return replace(proceed(replace(context, timeout=1.0)), oom_killed=True)

    seen: list[StepContext] = []
    call = chain([hurry], lambda context: seen.append(context) or DONE)
    assert call(context()).oom_killed
    assert seen[0].timeout == 1.0


def test_a_deadline_gives_the_step_what_is_left() -> None:
    seen: list[float | None] = []
    call = chain(
        [Deadline(monotonic() + 100)], lambda context: seen.append(context.timeout) or DONE
    )
    call(context())
    assert seen[0] is not None
    assert 0 < seen[0] <= 100


def test_without_a_deadline_a_step_may_take_for_ever() -> None:
    seen: list[float | None] = []
    chain([Deadline(None)], lambda context: seen.append(context.timeout) or DONE)(context())
    assert seen == [None]


def test_a_step_whose_time_is_up_before_it_starts_does_not_run() -> None:
    result = chain([Deadline(monotonic() - 1)], run_in_workspace)(context())
    assert result == StepResult(exit_code=None, timed_out=True, limit=TimeLimit.JOB)


@pytest.mark.parametrize(
    ("own", "left", "limit", "reason"),
    [
        (5, None, TimeLimit.STEP, "step first timed out after 5 seconds: while pulling"),
        (5, 100, TimeLimit.STEP, "step first timed out after 5 seconds: while pulling"),
        (200, 100, TimeLimit.JOB, "while pulling"),
        (0, 100, TimeLimit.JOB, "while pulling"),
    ],
)
def test_of_its_own_time_and_the_jobs_a_step_has_the_smaller(own, left, limit, reason) -> None:
    seen: list[float | None] = []

    def last(context: StepContext) -> StepResult:
        seen.append(context.timeout)
        return StepResult(exit_code=None, timed_out=True, reason="while pulling")

    at = None if left is None else monotonic() + left
    result = chain([Deadline(at)], last)(context(name="first", timeout_seconds=own))
    assert (result.limit, result.reason) == (limit, reason)
    assert seen[0] is not None
    assert seen[0] <= min(seconds for seconds in (own, left) if seconds)


def test_a_step_that_ends_in_time_was_ended_by_no_limit() -> None:
    result = chain([Deadline(monotonic() + 100)], lambda _: DONE)(context(timeout_seconds=5))
    assert result == DONE


def test_a_step_without_a_name_is_called_by_its_number() -> None:
    call = chain([Deadline(None)], run_in_workspace)
    with DummyExecutor().open(context().job, 1) as workspace:
        result = call(context("sleep 60", workspace, id=3, timeout_seconds=1))
    assert result.reason == "step 3 timed out after 1 seconds"


class Ready(NoWorkspace):
    """Its images take their time; its steps see how much is left to them."""

    def __init__(self) -> None:
        self.budgets: list[float | None] = []
        self.timeouts: list[float | None] = []

    def prepare(self, step, sink, timeout) -> None:
        self.budgets.append(timeout)
        sleep(0.05)
        if step.image == "nowhere":
            raise ImageUnavailable("nowhere", "not found")

    def run_step(self, step, sink, timeout) -> StepResult:
        self.timeouts.append(timeout)
        return DONE


def test_the_time_of_a_pull_is_neither_the_steps_nor_the_jobs() -> None:
    """The job has less time than its images take together."""
    workspace, deadline = Ready(), Deadline(monotonic() + 0.1)
    call = chain(
        [Refusals(), deadline, Preparing(7.0, deadline.extend)],
        run_in_workspace,
    )
    for image in ("a", "nowhere", "b", "nowhere", "c"):
        assert not call(context(workspace=workspace, image=image)).timed_out
    assert workspace.budgets == [7.0] * 5
    assert len(workspace.timeouts) == 3


def test_a_job_without_a_deadline_has_its_images_prepared_too() -> None:
    workspace, deadline = Ready(), Deadline(None)
    call = chain([deadline, Preparing(7.0, deadline.extend)], run_in_workspace)
    assert call(context(workspace=workspace)) == DONE
    assert workspace.timeouts == [None]


def test_a_pull_that_takes_too_long_is_the_steps_result_with_its_reason() -> None:
    call = chain([Refusals(), Preparing(0.1, lambda _: None)], run_in_workspace)
    here = context(image="slow-image-600")
    with DummyExecutor().open(here.job, 1) as workspace:
        result = call(replace(here, workspace=workspace))
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.reason.endswith("slow-image-600: the pull took longer than 0.1 seconds")


def test_a_stopped_attempt_is_not_made_a_result() -> None:
    call = chain([Refusals(), Preparing(1.0, lambda _: None)], run_in_workspace)
    here = context()
    with DummyExecutor().open(here.job, 1) as workspace:
        workspace.stop()
        with pytest.raises(Stopped):
            call(replace(here, workspace=workspace))


def test_a_refused_step_is_a_result_with_its_reason() -> None:
    def refuse(context):
        raise ImageUnavailable("nope:1", "not found")

    result = chain([Refusals()], refuse)(context())
    assert result.exit_code is None
    assert result.no_image
    assert result.reason == (
        "encountered 1 errors while pulling images: failed to pull image nope:1: not found"
    )


def test_a_broken_machine_is_not_made_a_result() -> None:
    def fail(context):
        raise InfrastructureError("no disk")

    with pytest.raises(InfrastructureError, match="no disk"):
        chain([Refusals(), Deadline(None)], fail)(context())


def log_of(script: str, secrets: set[str], image: str = "i") -> tuple[list[str], object]:
    """The log's lines, and the result or the exception, of a step through the worker's chain."""
    batches: list[LogBatch] = []
    outcome: object
    with closing(LogBatcher("a-job", 1, batches.append)) as batcher:
        layers = [StepLogs(batcher, limit=1 << 20), Masking(secrets), Refusals(), Deadline(None)]
        call = chain(layers, run_in_workspace)
        step_context = context(script, image=image)
        with DummyExecutor().open(step_context.job, 1) as workspace:
            try:
                outcome = call(replace(step_context, workspace=workspace))
            except InfrastructureError as error:
                outcome = error
    assert batches[0].step == 0
    return [entry.message for batch in batches for entry in batch.entries], outcome


def test_secrets_are_masked_before_the_log_sees_them() -> None:
    lines, result = log_of("echo my s3cret\nerr s3cret", {"s3cret"})
    assert lines == [f"my {MASK}", MASK]
    assert result == DONE


def test_a_secret_in_a_reason_is_masked_in_the_log_and_in_the_result() -> None:
    lines, result = log_of("refuse cannot log in with s3cret", {"s3cret"})
    assert lines == [f"hades: cannot log in with {MASK}"]
    assert isinstance(result, StepResult)
    assert result.reason == f"cannot log in with {MASK}"


def test_what_a_step_wrote_before_the_machine_failed_is_in_the_log() -> None:
    lines, error = log_of("echo before\nfail no disk", {"s3cret"})
    assert lines == ["before"]
    assert isinstance(error, InfrastructureError)


def test_an_image_that_is_missing_leaves_its_reason_in_the_log() -> None:
    lines, _ = log_of("echo never", set(), image="no-such-image:1")
    [line] = lines
    assert line.startswith("hades: encountered 1 errors while pulling images")


def test_a_sink_that_keeps_nothing_takes_everything() -> None:
    sink = NullSink()
    sink.open("c")
    sink.write(OutputStream.STDOUT, b"x")
