"""What every executor does when a workspace is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from executors.base import Executor, Workspace
from executors.errors import Stopped
from executors.job import Job, Step
from tests.executors.recorder import Recorder, job_of


class Opened(Recorder):
    """Calls back between making the container and starting it."""

    def __init__(self, on_open: Callable[[], object]) -> None:
        super().__init__()
        self._on_open = on_open

    def open(self, container_id: str) -> None:
        super().open(container_id)
        self._on_open()


class StopContract:
    """A stop comes from any thread and at any time."""

    scripts: ClassVar[Mapping[str, str]]

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        raise NotImplementedError

    def expect_stopped(self, workspace: Workspace, step: Step) -> None:
        """Nothing begins any more."""
        sink = Recorder()
        with pytest.raises(Stopped):
            workspace.prepare(step, sink, None)
        with pytest.raises(Stopped):
            workspace.run_step(step, sink, None)
        assert sink.opened == []

    def test_a_stop_ends_the_step_that_runs_and_what_it_wrote_is_there(
        self, executor: Executor, image: str
    ) -> None:
        step, begun = Step(image=image, script=self.scripts["late"]), threading.Event()
        job, sink = job_of(step), Recorder(begun.set)
        with executor.open(job, 1) as workspace, ThreadPoolExecutor(1) as threads:
            running = threads.submit(workspace.run_step, step, sink, None)
            assert begun.wait(60)
            workspace.stop()
            with pytest.raises(Stopped):
                running.result(60)
            assert sink.stdout == b"before\n"
            self.expect_stopped(workspace, step)
        self.assert_nothing_left(executor, job)

    def test_a_stop_may_come_from_the_sink(self, executor: Executor, image: str) -> None:
        step = Step(image=image, script=self.scripts["late"])
        with executor.open(job_of(step), 1) as workspace:
            with pytest.raises(Stopped):
                workspace.run_step(step, Recorder(workspace.stop), None)

    def test_a_stop_before_the_first_step_lets_none_begin(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["out and err"])
        job = job_of(step)
        with executor.open(job, 1) as workspace:
            workspace.stop()
            self.expect_stopped(workspace, step)
        self.assert_nothing_left(executor, job)

    def test_a_container_that_is_made_when_the_stop_comes_is_never_started(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["out and err"])
        job = job_of(step)
        with executor.open(job, 1) as workspace:
            sink = Opened(workspace.stop)
            with pytest.raises(Stopped):
                workspace.run_step(step, sink, None)
        assert sink.chunks == []
        self.assert_nothing_left(executor, job)

    def test_a_stop_between_two_steps_lets_the_second_not_begin(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["silent"])
        with executor.open(job_of(step), 1) as workspace:
            assert workspace.run_step(step, Recorder(), None).succeeded
            workspace.stop()
            self.expect_stopped(workspace, step)

    def test_stopping_twice_and_after_the_end_is_harmless(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["silent"])
        with executor.open(job_of(step), 1) as workspace:
            assert workspace.run_step(step, Recorder(), None).succeeded
            workspace.stop()
            workspace.stop()
        workspace.stop()
        self.expect_stopped(workspace, step)

    def test_a_stop_is_of_one_workspace_only(self, executor: Executor, image: str) -> None:
        step = Step(image=image, script=self.scripts["silent"])
        with executor.open(job_of(), 1) as stopped, executor.open(job_of(), 1) as other:
            stopped.stop()
            assert other.run_step(step, Recorder(), None).succeeded

    @pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
    def test_a_stop_at_any_moment_leaves_nothing(
        self, executor: Executor, image: str, delay: float
    ) -> None:
        """The delay is no promise: together they hit what lies between a call and the output."""
        step = Step(image=image, script=self.scripts["late"])
        job = job_of(step)
        with executor.open(job, 1) as workspace:
            timer = threading.Timer(delay, workspace.stop)
            timer.start()
            with pytest.raises(Stopped):
                workspace.run_step(step, Recorder(), None)
            timer.join()
        self.assert_nothing_left(executor, job)
