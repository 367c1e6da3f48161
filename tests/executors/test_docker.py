"""The `docker` executor keeps the contract, on a real Engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from executors.base import LABEL_JOB_ID, Executor, StepResult
from executors.docker import workspace
from executors.docker.convert import container_config, labels, volume_name
from executors.docker.executor import DockerExecutor
from executors.docker.owners import Owner
from executors.docker.workspace import shared_for_everybody
from executors.errors import (
    ImageUnavailable,
    InfrastructureError,
    LimitUnsupported,
    StepRefused,
    Stopped,
)
from executors.job import Job, Step
from executors.settings import DockerSettings
from tests.executors.contract import MIB, ExecutorContract, Recorder, job_of

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def shared_executor(engine: DockerSettings) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(engine, "tests")
    yield executor
    executor.close()


@pytest.fixture
def executor(shared_executor: DockerExecutor) -> DockerExecutor:
    return shared_executor


@pytest.fixture
def image(busybox_image: str) -> str:
    return busybox_image


@pytest.fixture
def nowhere(tmp_path: Path) -> DockerExecutor:
    return DockerExecutor(DockerSettings(host=f"unix://{tmp_path}/none.sock"), "tests")


class TestDocker(ExecutorContract):
    """On the image without bash."""

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        assert isinstance(executor, DockerExecutor)
        mine = {"label": [f"{LABEL_JOB_ID}={job.id}"]}
        assert executor.client.api.containers(all=True, filters=mine) == []
        assert not executor.client.api.volumes(filters=mine)["Volumes"]

    def test_the_priority_is_in_the_environment(
        self, engine: DockerSettings, debian_image: str
    ) -> None:
        """Read by Python: a shell drops variables that it could not name."""
        script = (
            'import os; print(*(os.environ["hades.tum.de/priority" + n] for n in ("", "Name")))'
        )
        python = DockerSettings(host=engine.host, script_executor=("python3", "-c"))
        step, sink = Step(image=debian_image, script=script), Recorder()
        with closing(DockerExecutor(python, "tests")) as executor:
            with executor.open(job_of(step, priority=7), 1) as workspace:
                assert workspace.run_step(step, sink, None).succeeded
        assert sink.stdout == b"3 high\n"

    # --- what the Engine is told

    def test_everything_carries_job_attempt_and_worker_as_labels(
        self, executor: DockerExecutor, image: str
    ) -> None:
        step = Step(image=image, script="echo")
        job = job_of(step)
        found: list[dict[str, Any]] = []

        def look() -> None:
            found.append(executor.client.api.inspect_container(sink.opened[0])["Config"]["Labels"])
            found.append(executor.client.api.inspect_volume(f"hades-{job.id}-4")["Labels"])

        sink = Recorder(look)
        with executor.open(job, 4) as workspace:
            assert workspace.run_step(step, sink, None).succeeded
        expected = {
            "hades.job_id": job.id,
            "hades.attempt": "4",
            "hades.worker": "tests",
            "hades.owner": str(Owner.current()),
        }
        assert found == [expected, expected]

    @pytest.mark.parametrize(
        ("limits", "script", "output"),
        [
            ({"memory_limit": 64 * MIB}, "cat {memory}/memory.limit_in_bytes", b"67108864\n"),
            ({"pids_limit": 50}, "cat {pids}/pids.max", b"50\n"),
            ({}, "cat {pids}/pids.max", b"4096\n"),
            ({"cpu_limit": 1}, "cat {cpu}/cpu.cfs_quota_us", b"100000\n"),
        ],
        ids=["memory", "pids", "pids by default", "cpu"],
    )
    def test_the_kernel_holds_the_limits(
        self,
        executor: DockerExecutor,
        image: str,
        limits: dict[str, int],
        script: str,
        output: bytes,
    ) -> None:
        names = ("memory", "pids", "cpu")
        script = script.format(**{name: f"/sys/fs/cgroup/{name}" for name in names})
        if executor.client.api.info().get("CgroupVersion") == "2":
            for old, new in CGROUP_2.items():
                script = script.replace(old, new)
        assert self.outputs(executor, image, script, **limits) == output

    def test_running_out_of_memory_is_told_apart(
        self, executor: DockerExecutor, image: str
    ) -> None:
        script = "x=$(head -c 300m /dev/zero | tr '\\000' x); echo ${#x}"
        result, _ = self.run_one(
            executor, image, script, memory_limit=32 * MIB, memory_swap=swap(executor)
        )
        assert result == StepResult(exit_code=137, oom_killed=True)

    def test_privileges_cannot_be_gained(self, executor: DockerExecutor, image: str) -> None:
        script = "grep NoNewPrivs /proc/self/status"
        assert self.outputs(executor, image, script).split() == [b"NoNewPrivs:", b"1"]

    def test_more_cores_than_there_are_is_no_error(
        self, executor: DockerExecutor, image: str
    ) -> None:
        self.outputs(executor, image, "true", cpu_limit=10_000)

    @pytest.mark.parametrize("network", ["no-such-network", "container:abc", "host"])
    def test_a_network_that_is_not_the_steps_to_join_is_refused(
        self, executor: DockerExecutor, image: str, network: str
    ) -> None:
        with pytest.raises(LimitUnsupported, match=r"^network "):
            self.run_one(executor, image, "true", network=network)

    def test_the_hosts_network_is_refused_by_its_id_too(
        self, executor: DockerExecutor, image: str
    ) -> None:
        with pytest.raises(LimitUnsupported, match=r"^network "):
            self.run_one(
                executor, image, "true", network=executor.client.api.inspect_network("host")["Id"]
            )

    def test_a_network_that_exists_can_be_joined(
        self, executor: DockerExecutor, image: str
    ) -> None:
        network = executor.client.api.create_network("hades-test-network", internal=True)["Id"]
        try:
            self.outputs(executor, image, "ls -d /sys/class/net/eth0", network="hades-test-network")
        finally:
            executor.client.api.remove_network(network)

    # --- images and shells

    def test_bash_is_preferred_where_the_image_has_it(
        self, executor: DockerExecutor, debian_image: str
    ) -> None:
        assert self.outputs(executor, debian_image, "a=(1 2); echo ${#a[@]}") == b"2\n"

    @pytest.mark.parametrize(("program", "code"), [("/no/such/shell", 127), ("/etc/passwd", 126)])
    def test_a_shell_that_cannot_be_executed_is_the_steps_result_with_a_reason(
        self, engine: DockerSettings, image: str, program: str, code: int
    ) -> None:
        settings = DockerSettings(host=engine.host, script_executor=(program, "-c"))
        with closing(DockerExecutor(settings, "tests")) as executor:
            result, sink = self.run_one(executor, image, "echo")
        assert result.exit_code == code
        assert program in result.reason
        assert not result.succeeded
        assert len(sink.opened) == 1

    def test_an_image_without_a_command_is_refused(
        self, executor: DockerExecutor, bare_image: str
    ) -> None:
        with pytest.raises(StepRefused, match=r"(?i)no command"):
            self.run_one(executor, bare_image, "")

    @pytest.mark.parametrize("name", ["", "UPPER CASE", "a:b:c"])
    def test_a_name_that_is_no_images_counts_as_a_missing_image(
        self, executor: DockerExecutor, name: str
    ) -> None:
        with pytest.raises(ImageUnavailable):
            self.run_one(executor, name, "true")

    def test_the_user_of_an_image_can_write_to_shared(
        self, executor: DockerExecutor, image: str, user_image: str
    ) -> None:
        steps = [
            Step(image=image, script="echo of root > mine; id -u"),
            Step(image=user_image, script="echo x > theirs; cat mine; id -u"),
            Step(image=user_image, script="echo y >> theirs; cat theirs; stat -c %a /shared"),
        ]
        sinks = [Recorder() for _ in steps]
        with executor.open(job_of(*steps), 1) as workspace:
            for step, sink in zip(steps, sinks, strict=True):
                assert workspace.run_step(step, sink, None).succeeded, sink.stderr
        assert [sink.stdout for sink in sinks] == [b"0\n", b"of root\n65534\n", b"x\ny\n1777\n"]

    # --- what goes wrong

    def test_a_kill_from_outside_is_an_ordinary_end_with_137(
        self, executor: DockerExecutor, image: str
    ) -> None:
        step = Step(image=image, script="echo ready; sleep 600")
        sink = Recorder(lambda: executor.client.api.kill(sink.opened[0]))
        with executor.open(job_of(step), 1) as workspace:
            assert workspace.run_step(step, sink, None) == StepResult(exit_code=137)

    def test_a_container_of_whose_creation_nobody_heard_is_removed_too(
        self, executor: DockerExecutor, image: str
    ) -> None:
        """As when the answer of the Engine was lost."""
        job = job_of()
        with executor.open(job, 1):
            config = container_config(
                job,
                Step(image=image),
                volume=volume_name(job.id, 1),
                labels=labels(job.id, 1, "tests", str(Owner.current())),
                settings=executor.settings,
                engine=executor.client.engine,
            )
            executor.client.api.create_container_from_config(config)
        self.assert_nothing_left(executor, job)

    def test_a_container_that_vanishes_is_the_machines_failure(
        self, executor: DockerExecutor, image: str
    ) -> None:
        step = Step(image=image, script="echo ready; sleep 600")
        job = job_of(step)
        sink = Recorder(lambda: executor.reap(job.id))
        with pytest.raises(InfrastructureError):
            with executor.open(job, 1) as workspace:
                workspace.run_step(step, sink, None)
        self.assert_nothing_left(executor, job)

    def test_a_silent_step_is_waited_for_in_pieces(
        self, executor: DockerExecutor, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workspace, "GLANCE", 1)
        script = "exec >&- 2>&-; sleep 2.5; exit 5"
        assert self.run_one(executor, image, script)[0] == StepResult(exit_code=5)
        result, _ = self.run_one(executor, image, "exec >&- 2>&-; sleep 600", 2.5)
        assert result == StepResult(exit_code=None, timed_out=True)

    def test_a_step_that_is_stopped_while_it_is_silent_ends(
        self, executor: DockerExecutor, image: str
    ) -> None:
        step = Step(image=image, script="echo begun; exec >&- 2>&-; sleep 600")
        with executor.open(job_of(step), 1) as opened:
            timer = threading.Timer(0.5, opened.stop)
            with pytest.raises(Stopped):
                opened.run_step(step, Recorder(timer.start), None)
            timer.join()

    def test_an_engine_that_is_gone_is_the_machines_failure(self, nowhere: DockerExecutor) -> None:
        with pytest.raises(InfrastructureError, match=r"none\.sock"):
            with nowhere.open(job_of(), 1):
                pass
        with pytest.raises(InfrastructureError):
            nowhere.reap("any")


CGROUP_2 = {
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/pids/": "/sys/fs/cgroup/",
    "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us": "cut -d' ' -f1 /sys/fs/cgroup/cpu.max",
}


def swap(executor: DockerExecutor) -> int:
    """No swap beyond 32 MiB of memory, where the kernel counts it."""
    return 32 * MIB if executor.client.engine.memory_swap else 0


@pytest.fixture(scope="module")
def user_image(shared_executor: DockerExecutor, busybox_image: str) -> Iterator[str]:
    """The small image with a USER who is not root."""
    yield from derived(shared_executor, busybox_image, "hades-test/user:latest", "USER nobody")


@pytest.fixture(scope="module")
def bare_image(shared_executor: DockerExecutor) -> Iterator[str]:
    """An image that says not what to run."""
    repository, tag = "hades-test/bare", "latest"
    shared_executor.client.api.import_image_from_data(shared_for_everybody(), repository, tag)
    yield f"{repository}:{tag}"
    shared_executor.client.api.remove_image(f"{repository}:{tag}")


def derived(executor: DockerExecutor, base: str, name: str, instruction: str) -> Iterator[str]:
    container = executor.client.api.create_container(base)["Id"]
    repository, tag = name.split(":")
    executor.client.api.commit(container, repository, tag, changes=[instruction])
    executor.client.api.remove_container(container)
    yield name
    executor.client.api.remove_image(name)
