"""What workers that died have left in an Engine; and what living ones use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from executors.base import LABEL_JOB_ID, LABEL_OWNER
from executors.docker.executor import DockerExecutor
from executors.docker.owners import Owner
from executors.job import Job
from executors.settings import DockerSettings
from tests.executors.contract import job_of
from tests.executors.sandboxes import eventually

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from executors.docker.executor import DockerExecutor
from executors.job import Job, Step
from executors.settings import DockerSettings

class Sink:
    def open(self, container_id): pass
    def write(self, stream, data): print(data.decode(), end="", flush=True)

host, image, job_id = sys.argv[1:]
step = Step(image=image, script="echo begun; sleep 600")
job = Job(id=job_id, name="j", steps=(step,))
with DockerExecutor(DockerSettings(host=host), "w").open(job, 1) as w:
    w.run_step(step, Sink(), None)
"""


@pytest.fixture
def executor(engine: DockerSettings) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(engine, "tests")
    yield executor
    executor.close()


@contextmanager
def running_worker(executor: DockerExecutor, image: str) -> Iterator[tuple[Job, subprocess.Popen]]:
    """A process in the middle of a step; killed when the block is left."""
    job = job_of()
    argv = [sys.executable, "-c", WORKER, executor.settings.host, image, job.id]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"begun\n"
            yield job, process
        finally:
            process.kill()


def left_of(executor: DockerExecutor, job: Job) -> int:
    mine = {"label": [f"{LABEL_JOB_ID}={job.id}"]}
    api = executor.client.api
    volumes = api.volumes(filters=mine)["Volumes"] or ()
    return len(api.containers(all=True, filters=mine)) + len(volumes)


@pytest.mark.docker
def test_what_a_killed_worker_left_goes_and_what_a_living_one_uses_stays(
    executor: DockerExecutor, busybox_image: str
) -> None:
    with running_worker(executor, busybox_image) as (alive, _):
        with running_worker(executor, busybox_image) as (dead, process):
            executor.reap_orphans()
            assert left_of(executor, dead) == 2
            process.kill()  # and not waited for: its entry in the list of processes stays
            assert eventually(lambda: executor.reap_orphans() >= 0 == left_of(executor, dead))
        assert left_of(executor, alive) == 2
    executor.reap_orphans()
    assert left_of(executor, alive) == 0


@pytest.mark.docker
def test_what_may_belong_to_a_worker_of_another_host_stays(executor: DockerExecutor) -> None:
    api = executor.client.api
    names = []
    for owner in (str(replace(Owner.current(), boot="another", host="another")), "no owner"):
        labels = {LABEL_OWNER: owner, LABEL_JOB_ID: "of-another-host"}
        names.append(api.create_volume(labels=labels)["Name"])
    executor.reap_orphans()
    for name in names:
        api.remove_volume(name)


def test_the_process_that_looks_is_alive_and_its_label_is_read_again() -> None:
    owner = Owner.current()
    assert Owner.parse(str(owner)) == owner
    assert not owner.surely_dead


def test_what_is_no_label_of_ours_is_nobodys() -> None:
    assert Owner.parse("host-123") is None


def test_a_pid_that_means_another_process_by_now_is_of_a_dead_one() -> None:
    assert replace(Owner.current(), started="1").surely_dead


def test_a_process_that_ended_is_dead_whether_or_not_its_parent_noticed() -> None:
    code = "from executors.docker.owners import Owner; print(Owner.current(), flush=True); input()"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        owner = Owner.parse(process.stdout.readline().strip())
        assert owner is not None
        assert not owner.surely_dead
        process.kill()
        assert eventually(lambda: owner.surely_dead)
    assert owner.surely_dead


@pytest.mark.parametrize(
    ("changes", "dead"),
    [
        ({"boot": "earlier"}, True),
        ({"boot": "earlier", "host": "another"}, False),
        ({"boot": "earlier", "host": ""}, False),
        ({"boot": "", "started": "1"}, False),
        ({"namespace": "pid:[1]", "started": "1"}, False),
        ({"namespace": "", "started": "1"}, False),
        ({"pid": "x"}, False),
    ],
    ids=str,
)
def test_only_who_is_surely_dead_counts_as_dead(changes: dict[str, str], dead: bool) -> None:
    owner = replace(Owner.current(), **changes)
    if dead and not owner.host:
        pytest.skip("this machine has no id")
    assert owner.surely_dead == dead


def test_a_process_that_proc_hides_from_us_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = replace(Owner.current(), pid=str(os.getppid()), started="1")
    assert hidden.surely_dead
    monkeypatch.setattr("executors.docker.owners._read", _read_without_processes)
    assert not hidden.surely_dead


def _read_without_processes(path: str) -> str:
    return "" if path.endswith("/stat") else Path(path).read_text().strip()
