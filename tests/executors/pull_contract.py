"""What every executor does while an image is on its way."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest

from executors.base import Executor, Workspace
from executors.errors import ImageUnavailable, LimitUnsupported, Stopped
from executors.job import Job, Step
from tests.executors.recorder import Recorder, job_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowImage:
    """One whose pull does not end."""

    name: str
    asked_for: Callable[[], object]
    """Returns when the pull has begun."""


@pytest.fixture
def deaf_registry() -> Iterator[SlowImage]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        taken: list[socket.socket] = []
        name = f"127.0.0.1:{server.getsockname()[1]}/never:1"
        yield SlowImage(name=name, asked_for=lambda: taken.append(server.accept()[0]))
        server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                taken.append(server.accept()[0])
        for connection in taken:
            connection.close()


class PullContract:
    """The time of a pull is not the step's."""

    scripts: ClassVar[Mapping[str, str]]
    missing_image: ClassVar[str]

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        raise NotImplementedError

    @pytest.fixture
    def slow_image(self, deaf_registry: SlowImage) -> SlowImage:
        return deaf_registry

    def test_preparing_what_is_here_says_nothing_and_the_step_runs(
        self, executor: Executor, image: str
    ) -> None:
        step, sink = Step(image=image, script=self.scripts["out and err"]), Recorder()
        with executor.open(job_of(step), 1) as workspace:
            workspace.prepare(step, sink, 60.0)
            assert (sink.opened, sink.chunks) == ([], [])
            assert workspace.run_step(step, sink, 60.0).succeeded
        assert sink.stdout == b"to stdout\n"

    def test_preparing_a_missing_image_names_it(self, executor: Executor) -> None:
        step = Step(image=self.missing_image, script=self.scripts["silent"])
        with executor.open(job_of(step), 1) as workspace:
            with pytest.raises(ImageUnavailable, match=self.missing_image):
                workspace.prepare(step, Recorder(), 60.0)

    def test_a_pull_that_takes_too_long_says_so_and_leaves_the_workspace_usable(
        self, executor: Executor, image: str, slow_image: SlowImage
    ) -> None:
        slow, quick = (
            Step(image=name, script=self.scripts["silent"]) for name in (slow_image.name, image)
        )
        with executor.open(job_of(slow, quick), 1) as workspace:
            with pytest.raises(ImageUnavailable, match=r"the pull took longer than 0\.2 seconds"):
                workspace.prepare(slow, Recorder(), 0.2)
            assert workspace.run_step(quick, Recorder(), None).succeeded

    def test_without_preparing_the_pull_is_part_of_the_steps_time(
        self, executor: Executor, slow_image: SlowImage
    ) -> None:
        step, sink = Step(image=slow_image.name, script=self.scripts["silent"]), Recorder()
        with executor.open(job_of(step), 1) as workspace:
            result = workspace.run_step(step, sink, 0.2)
        assert (result.exit_code, result.timed_out) == (None, True)
        assert slow_image.name in result.reason
        assert sink.opened == []

    def test_what_would_be_refused_is_refused_before_its_image_is_pulled(
        self, executor: Executor, slow_image: SlowImage
    ) -> None:
        step = Step(image=slow_image.name, script=self.scripts["silent"], network="host")
        with executor.open(job_of(step), 1) as workspace:
            with pytest.raises(LimitUnsupported, match=r"^network "):
                workspace.prepare(step, Recorder(), 60.0)

    @pytest.mark.parametrize("preparing", [True, False], ids=["preparing", "running"])
    def test_a_stop_ends_the_wait_for_an_image(
        self, executor: Executor, slow_image: SlowImage, preparing: bool
    ) -> None:
        step = Step(image=slow_image.name, script=self.scripts["silent"])
        job = job_of(step)
        with executor.open(job, 1) as workspace, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(_wait_for_image(workspace, step, preparing))
            slow_image.asked_for()
            workspace.stop()
            with pytest.raises(Stopped):
                waiting.result(60)
        self.assert_nothing_left(executor, job)

    def test_who_waits_for_the_same_image_is_not_stopped_with_another(
        self, executor: Executor, slow_image: SlowImage
    ) -> None:
        step = Step(image=slow_image.name, script=self.scripts["silent"])
        with (
            executor.open(job_of(), 1) as one,
            executor.open(job_of(), 1) as other,
            ThreadPoolExecutor(2) as threads,
        ):
            waiting = threads.submit(one.prepare, step, Recorder(), None)
            slow_image.asked_for()
            patient = threads.submit(other.prepare, step, Recorder(), 1.0)
            one.stop()
            with pytest.raises(Stopped):
                waiting.result(60)
            with pytest.raises(ImageUnavailable, match="longer than 1 second"):
                patient.result(60)


def _wait_for_image(workspace: Workspace, step: Step, preparing: bool) -> Callable[[], Any]:
    call = workspace.prepare if preparing else workspace.run_step
    return partial(call, step, Recorder(), None)
