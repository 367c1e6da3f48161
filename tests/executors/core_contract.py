"""What can be asked of every executor, also of one that runs no process."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from executors.base import Executor, StepResult
from executors.errors import ExecutorUnavailable, ImageUnavailable, LimitUnsupported
from executors.job import Job, Step
from tests.executors.pull_contract import PullContract
from tests.executors.recorder import MIB, Recorder, job_of
from tests.executors.stop_contract import StopContract

__all__ = ["MIB", "CoreContract", "Recorder", "job_of"]

WRITE_READ = ("write", "read")


class CoreContract(StopContract, PullContract):
    """What can be said of an executor without saying what a container is."""

    scripts: ClassVar[Mapping[str, str]] = {
        "out and err": "echo to stdout; echo to stderr >&2",
        "silent": "true",
        "exit 3": "exit 3",
        "exit 1": "false",
        "not found": "no-such-command",
        "write": "echo kept > file",
        "read": "cat file",
        "write outside": "echo secret > /tmp/file",
        "read outside": "cat /tmp/file",
        "env": 'echo "$UUID"; echo "$JOB_NAME"; echo "$OF_JOB"; echo "$OF_STEP"; echo "$BOTH"',
        "pwd": "pwd",
        "bytes": r"printf '\000\377\200\r\033[0m\n'",
        "1 MiB": "seq 100000 299999",
        "5 MiB line": f"head -c {5 * MIB} /dev/zero | tr '\\000' x",
        "late": "echo before; sleep 600; echo after",
    }
    """One script for each thing that the tests want done, in the executor's own language."""
    patience: ClassVar[float] = 5.0
    """Seconds in which a step has surely started and written its first line."""
    missing_image: ClassVar[str] = "127.0.0.1:1/no-such-image:latest"

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        """Fails when the machine still has anything of the job's."""
        raise NotImplementedError

    def run(self, executor: Executor, image: str, *names: str, **fields: Any) -> list[Recorder]:
        """One job with these scripts as its steps; each must succeed."""
        sinks = [Recorder() for _ in names]
        steps = [Step(image=image, script=self.scripts[name]) for name in names]
        with executor.open(job_of(*steps, **fields), 1) as workspace:
            for step, sink in zip(steps, sinks, strict=True):
                result = workspace.run_step(step, sink, None)
                assert result.succeeded, (step.script, result, sink.stderr)
        return sinks

    def run_one(
        self, executor: Executor, image: str, script: str, timeout: float | None = None, **more: Any
    ) -> tuple[StepResult, Recorder]:
        """A job of one step; `more` are its step's fields."""
        step, sink = Step(image=image, script=script, **more), Recorder()
        with executor.open(job_of(step), 1) as workspace:
            return workspace.run_step(step, sink, timeout), sink

    # --- output

    def test_both_outputs_reach_the_sink_by_their_names(
        self, executor: Executor, image: str
    ) -> None:
        [sink] = self.run(executor, image, "out and err")
        assert sink.stdout == b"to stdout\n"
        assert sink.stderr == b"to stderr\n"

    @pytest.mark.parametrize("name", ["out and err", "silent"])
    def test_the_sink_is_opened_once_with_the_containers_name(
        self, executor: Executor, image: str, name: str
    ) -> None:
        [sink] = self.run(executor, image, name)
        [container_id] = sink.opened
        assert container_id

    def test_a_step_may_write_nothing(self, executor: Executor, image: str) -> None:
        [sink] = self.run(executor, image, "silent")
        assert sink.chunks == []

    def test_bytes_that_are_no_text_arrive_unchanged(self, executor: Executor, image: str) -> None:
        [sink] = self.run(executor, image, "bytes")
        assert sink.stdout == b"\x00\xff\x80\r\x1b[0m\n"

    def test_much_output_arrives_whole_and_in_order(self, executor: Executor, image: str) -> None:
        [sink] = self.run(executor, image, "1 MiB")
        assert len(sink.stdout) >= MIB
        lines = sink.stdout.split()
        assert lines == sorted(lines)
        assert len(set(lines)) == len(lines) == 200_000

    def test_a_line_of_5_mib_without_an_end_arrives_whole(
        self, executor: Executor, image: str
    ) -> None:
        [sink] = self.run(executor, image, "5 MiB line")
        assert sink.stdout == b"x" * 5 * MIB

    # --- results

    @pytest.mark.parametrize(
        ("name", "code"), [("silent", 0), ("exit 1", 1), ("exit 3", 3), ("not found", 127)]
    )
    def test_the_exit_code_is_the_scripts(
        self, executor: Executor, image: str, name: str, code: int
    ) -> None:
        result, _ = self.run_one(executor, image, self.scripts[name])
        assert result == StepResult(exit_code=code)
        assert result.succeeded == (code == 0)

    def test_a_missing_image_is_named(self, executor: Executor) -> None:
        with pytest.raises(ImageUnavailable, match=self.missing_image):
            self.run_one(executor, self.missing_image, self.scripts["silent"])

    def test_the_hosts_network_is_refused_by_the_fields_name(
        self, executor: Executor, image: str
    ) -> None:
        with pytest.raises(LimitUnsupported, match=r"^network "):
            self.run_one(executor, image, self.scripts["silent"], network="host")

    # --- surroundings

    def test_the_steps_metadata_wins_over_the_jobs_and_the_id_and_name_over_both(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(
            image=image,
            script=self.scripts["env"],
            metadata={"OF_STEP": "s", "BOTH": "step", "UUID": "forged", "JOB_NAME": "forged"},
        )
        job = job_of(step, name="a name", metadata={"OF_JOB": "j", "BOTH": "job"})
        sink = Recorder()
        with executor.open(job, 1) as workspace:
            assert workspace.run_step(step, sink, None).succeeded
        assert sink.stdout.decode().splitlines() == [job.id, "a name", "j", "s", "step"]

    def test_steps_start_in_shared(self, executor: Executor, image: str) -> None:
        [sink] = self.run(executor, image, "pwd")
        assert sink.stdout == b"/shared\n"

    # --- the workspace

    def test_a_step_finds_what_an_earlier_one_left_in_shared(
        self, executor: Executor, image: str
    ) -> None:
        *_, sink = self.run(executor, image, "write", "silent", "read")
        assert sink.stdout == b"kept\n"

    def test_what_a_step_wrote_elsewhere_is_gone_in_the_next(
        self, executor: Executor, image: str
    ) -> None:
        steps = [Step(image=image, script=self.scripts[f"{verb} outside"]) for verb in WRITE_READ]
        with executor.open(job_of(*steps), 1) as workspace:
            assert workspace.run_step(steps[0], Recorder(), None).succeeded
            assert workspace.run_step(steps[1], Recorder(), None).exit_code == 1

    def test_jobs_at_the_same_time_do_not_share(self, executor: Executor, image: str) -> None:
        write, read = (Step(image=image, script=self.scripts[verb]) for verb in WRITE_READ)
        with executor.open(job_of(write), 1) as one, executor.open(job_of(read), 1) as other:
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(lambda w: w.run_step(write, Recorder(), None), [one, one]))
            assert other.run_step(read, Recorder(), None).exit_code == 1
            assert one.run_step(read, Recorder(), None).succeeded

    def test_many_jobs_run_at_once_from_many_threads(self, executor: Executor, image: str) -> None:
        def work(_: int) -> bytes:
            return self.run(executor, image, "write", "read")[1].stdout

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(work, range(8))) == [b"kept\n"] * 8

    def test_leaving_removes_everything(self, executor: Executor, image: str) -> None:
        step = Step(image=image, script=self.scripts["write"])
        job = job_of(step)
        with executor.open(job, 1) as workspace:
            workspace.run_step(step, Recorder(), None)
        self.assert_nothing_left(executor, job)

    def test_leaving_by_an_exception_removes_everything_too(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["out and err"])
        job = job_of(step)

        def break_off() -> None:
            raise KeyError("from the sink")

        with pytest.raises(KeyError, match="from the sink"):
            with executor.open(job, 1) as workspace:
                workspace.run_step(step, Recorder(break_off), None)
        self.assert_nothing_left(executor, job)

    def test_leaving_twice_is_harmless(self, executor: Executor) -> None:
        job = job_of()
        block = executor.open(job, 1)
        block.__enter__()
        block.__exit__(None, None, None)
        block.__exit__(None, None, None)
        self.assert_nothing_left(executor, job)

    def test_the_next_attempt_starts_empty_though_the_first_was_never_left(
        self, executor: Executor, image: str
    ) -> None:
        write, read = (Step(image=image, script=self.scripts[verb]) for verb in WRITE_READ)
        job = job_of(write, read)
        first = executor.open(job, 1)
        assert first.__enter__().run_step(write, Recorder(), None).succeeded
        with executor.open(job, 2) as second:
            assert second.run_step(read, Recorder(), None).exit_code == 1
        self.assert_nothing_left(executor, job)
        first.__exit__(None, None, None)

    def test_reaping_removes_what_a_lost_worker_left_and_may_be_repeated(
        self, executor: Executor, image: str
    ) -> None:
        step = Step(image=image, script=self.scripts["write"])
        job = job_of(step)
        lost = executor.open(job, 1)
        lost.__enter__().run_step(step, Recorder(), None)
        executor.reap(job.id)
        self.assert_nothing_left(executor, job)
        executor.reap(job.id)
        lost.__exit__(None, None, None)

    def test_reaping_leaves_other_jobs_alone(self, executor: Executor, image: str) -> None:
        write, read = (Step(image=image, script=self.scripts[verb]) for verb in WRITE_READ)
        with executor.open(job_of(write, read), 1) as workspace:
            assert workspace.run_step(write, Recorder(), None).succeeded
            executor.reap(str(uuid.uuid4()))
            assert workspace.run_step(read, Recorder(), None).succeeded

    def test_reaping_orphans_leaves_alone_what_is_in_use(
        self, executor: Executor, image: str
    ) -> None:
        write, read = (Step(image=image, script=self.scripts[verb]) for verb in WRITE_READ)
        with executor.open(job_of(write, read), 1) as workspace:
            assert workspace.run_step(write, Recorder(), None).succeeded
            executor.reap_orphans()
            assert workspace.run_step(read, Recorder(), None).succeeded

    # --- time

    def test_a_step_whose_time_is_up_is_ended_and_what_it_wrote_is_there(
        self, executor: Executor, image: str
    ) -> None:
        result, sink = self.run_one(executor, image, self.scripts["late"], self.patience)
        assert result == StepResult(exit_code=None, timed_out=True)
        assert sink.stdout == b"before\n"

    def test_a_step_that_is_in_time_is_not_timed_out(self, executor: Executor, image: str) -> None:
        result, _ = self.run_one(executor, image, self.scripts["exit 3"], 600.0)
        assert result == StepResult(exit_code=3)

    def test_the_workspace_outlives_a_step_whose_time_is_up(
        self, executor: Executor, image: str
    ) -> None:
        write, read = (Step(image=image, script=self.scripts[verb]) for verb in WRITE_READ)
        late = Step(image=image, script=self.scripts["late"])
        with executor.open(job_of(write, late, read), 1) as workspace:
            assert workspace.run_step(write, Recorder(), None).succeeded
            assert workspace.run_step(late, Recorder(), self.patience / 5).timed_out
            assert workspace.run_step(read, Recorder(), None).succeeded

    # --- the executor

    def test_check_passes_where_jobs_can_run(self, executor: Executor) -> None:
        executor.check()

    def test_check_says_so_where_none_can(self, nowhere: Executor | None) -> None:
        if nowhere is None:
            pytest.skip("this executor needs nothing that could be missing")
        with pytest.raises(ExecutorUnavailable):
            nowhere.check()

    def test_closing_twice_is_harmless(self, executor: Executor) -> None:
        executor.close()
        executor.close()
