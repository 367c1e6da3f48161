"""An Engine that dies, hangs, or has no room left: by a real one, of the tests' own."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import requests
from docker.errors import APIError

from executors.docker import client, workspace
from executors.docker.errors import engine_errors
from executors.docker.executor import DockerExecutor
from executors.errors import ExecutorUnavailable, InfrastructureError, StepRefused, Stopped
from executors.job import Job, Step
from executors.settings import DockerSettings
from tests.executors.contract import Recorder, job_of
from tests.executors.disks import fill, small_disk
from tests.executors.engines import OwnEngine, own_engine

pytestmark = [
    pytest.mark.docker,
    # the SDK leaves the sockets of broken connections to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """The sockets, before another test meets them."""
    yield
    gc.collect()


@pytest.fixture
def own() -> Iterator[OwnEngine]:
    with own_engine() as engine:
        yield engine


def late_step(image: str) -> Step:
    return Step(image=image, script="echo begun; sleep 600", network="none")


def left_of(executor: DockerExecutor, job: Job) -> list[object]:
    mine = {"label": [f"hades.job_id={job.id}"]}
    api = executor.client.api
    return [*api.containers(all=True, filters=mine), *(api.volumes(filters=mine)["Volumes"] or ())]


def test_an_engine_that_is_killed_under_a_step_can_run_nothing_until_it_is_back(
    own: OwnEngine,
) -> None:
    """What could not be removed then is removed later, by the worker that is still alive."""
    step = late_step(own.load_image())
    job, executor = job_of(step), own.executor
    with pytest.raises(ExecutorUnavailable):
        with executor.open(job, 1) as opened:
            opened.run_step(step, Recorder(lambda: own.send(signal.SIGKILL)), None)
    with pytest.raises(ExecutorUnavailable, match="no Docker Engine can be used"):
        executor.check()
    with pytest.raises(ExecutorUnavailable):
        with executor.open(job_of(), 1):
            pass
    own.start()
    executor.check()
    assert left_of(executor, job)
    assert executor.reap_orphans() == 2
    assert left_of(executor, job) == []
    assert executor.reap_orphans() == 0


def test_a_stop_gets_through_while_the_engine_hangs(
    own: OwnEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 2)
    monkeypatch.setattr(client, "PATIENCE", 1)
    monkeypatch.setattr(workspace, "STOP_GRACE", 0.5)
    step, begun = late_step(own.load_image()), Event()
    job, executor = job_of(step), DockerExecutor(own.settings, "tests")

    with ThreadPoolExecutor(1) as threads, executor.open(job, 1) as opened:
        working = threads.submit(opened.run_step, step, Recorder(begun.set), None)
        assert begun.wait(60)
        own.send(signal.SIGSTOP)
        with pytest.raises(ExecutorUnavailable, match="no Docker Engine can be used"):
            executor.check()
        opened.stop()
        with pytest.raises(Stopped):
            working.result(60)
    own.send(signal.SIGCONT)
    executor.check()
    executor.reap_orphans()
    assert left_of(executor, job) == []
    executor.close()


def test_an_engine_without_room_can_run_nothing() -> None:
    with small_disk("64m") as disk, own_engine(disk) as own:
        step = Step(image=own.load_image(), script="true", network="none")
        own.executor.check()
        full = fill(own.data)
        picky = DockerExecutor(replace(own.settings, min_free_disk=1 << 20), "tests")
        with pytest.raises(ExecutorUnavailable, match=r"^the disk of .*/data is full: 0 MiB"):
            picky.check()
        with pytest.raises(ExecutorUnavailable, match="no space left on device"):
            with own.executor.open(job_of(step), 1) as opened:
                opened.run_step(step, Recorder(), None)
        full.unlink()
        picky.check()
        picky.close()
        with own.executor.open(job_of(step), 1) as opened:
            assert opened.run_step(step, Recorder(), None).succeeded


def test_the_floor_counts_only_on_this_machine(engine: DockerSettings) -> None:
    executor = DockerExecutor(replace(engine, min_free_disk=1 << 60), "tests")
    if not Path(executor.client.engine.root_dir).is_dir():
        pytest.skip("the Engine's disk is another machine's")
    with pytest.raises(ExecutorUnavailable, match="HADES_MIN_FREE_DISK"):
        executor.check()
    executor.close()


@pytest.mark.parametrize(
    ("status", "words", "ours"),
    [
        (500, "mkdir /x: no space left on device", ExecutorUnavailable),
        (500, "open /x: too many open files", ExecutorUnavailable),
        (400, "unable to apply cgroup configuration: permission denied", ExecutorUnavailable),
        (503, "shutting down", ExecutorUnavailable),
        (500, "something odd", InfrastructureError),
        (404, "no such container", StepRefused),
        (400, "stat /usr/bin/cgroup-configuration: no such file", StepRefused),
    ],
)
def test_what_the_engine_says_is_the_machines_or_the_jobs(
    status: int, words: str, ours: type[Exception]
) -> None:
    response = requests.Response()
    response.status_code = status
    with pytest.raises(ours) as caught:
        with engine_errors("starting", refused=StepRefused):
            raise APIError("", response, words)
    assert type(caught.value) is ours
