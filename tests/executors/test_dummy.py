"""The `dummy` executor keeps the contract, in its own small language."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from executors.base import Executor
from executors.dummy import DummyExecutor
from executors.errors import InfrastructureError, StepRefused
from executors.job import Job, Step
from tests.executors.contract import MIB, CoreContract, Recorder, job_of
from tests.executors.pull_contract import SlowImage


class TestDummy(CoreContract):
    """The whole of what needs no process."""

    patience: ClassVar[float] = 0.05
    missing_image: ClassVar[str] = "no-such-image"
    scripts = {
        "out and err": "echo to stdout\nerr to stderr",
        "silent": "true",
        "exit 3": "exit 3",
        "exit 1": "false",
        "not found": "no-such-command",
        "write": "write file kept",
        "read": "cat file",
        "write outside": "write /tmp/file secret",
        "read outside": "cat /tmp/file",
        "env": "env UUID\nenv JOB_NAME\nenv OF_JOB\nenv OF_STEP\nenv BOTH",
        "pwd": "pwd",
        "bytes": "hex 00 ff 80 0d 1b 5b 30 6d 0a",
        "1 MiB": "\n".join(f"echo {number}" for number in range(100_000, 300_000)),
        "5 MiB line": f"repeat {5 * MIB} x",
        "late": "echo before\nsleep 600\necho after",
    }

    @pytest.fixture
    def executor(self) -> DummyExecutor:
        return DummyExecutor()

    @pytest.fixture
    def nowhere(self) -> None:
        return None

    @pytest.fixture
    def image(self) -> str:
        return "any"

    @pytest.fixture
    def slow_image(self) -> SlowImage:
        return SlowImage(name="slow-image-600", asked_for=lambda: None)

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        assert isinstance(executor, DummyExecutor)
        assert job.id not in executor.workspaces

    def test_the_priority_is_in_the_environment(self, executor: Executor, image: str) -> None:
        step, sink = Step(image=image, script="env hades.tum.de/priority"), Recorder()
        with executor.open(job_of(step, priority=7), 1) as workspace:
            workspace.run_step(step, sink, None)
        assert sink.stdout == b"3\n"

    def test_a_script_can_fail_the_machine(self, executor: Executor, image: str) -> None:
        with pytest.raises(InfrastructureError, match="the disk is full"):
            self.run_one(executor, image, "fail the disk is full")

    def test_a_script_can_be_refused(self, executor: Executor, image: str) -> None:
        with pytest.raises(StepRefused, match="not here"):
            self.run_one(executor, image, "refuse not here")


def test_reaping_ends_a_step_that_sleeps() -> None:
    executor = DummyExecutor()
    step = Step(image="any", script="echo ready\nsleep 600")
    job = job_of(step)
    with ThreadPoolExecutor(1) as threads, executor.open(job, 1) as workspace:
        sink = Recorder(lambda: executor.reap(job.id))
        with pytest.raises(InfrastructureError):
            threads.submit(workspace.run_step, step, sink, None).result(60)


def test_an_image_that_took_its_time_is_here_afterwards() -> None:
    step = Step(image="slow-image-0.1", script="true")
    with DummyExecutor().open(job_of(step), 1) as workspace:
        workspace.prepare(step, Recorder(), 60.0)
        workspace.prepare(step, Recorder(), 0.0)
        assert workspace.run_step(step, Recorder(), 60.0).succeeded
