"""The disk is full: of the executor, or of NATS. Nothing is lost, and all goes on with room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.conftest import EXECUTORS, load_image, need_sandbox, open_directory
from tests.acceptance.processes import until
from tests.executors.disks import fill, small_disk
from tests.executors.engines import own_engine
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FLOOR = "8m"


@pytest.fixture(params=EXECUTORS)
def house_and_disk(request: pytest.FixtureRequest) -> Iterator[tuple[FaultHouse, Path]]:
    """The disk on which the executor keeps what jobs need."""
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        disk = stack.enter_context(small_disk("96m"))
        if request.param == "sandbox":
            need_sandbox(directory)
            env = {"HADES_DATA_DIR": str(disk / "hades")}
        else:
            engine = stack.enter_context(own_engine(disk))
            engine.load_image()
            env = {"DOCKER_HOST": engine.settings.host}
        house = FaultHouse(directory, request.param, HADES_MIN_FREE_DISK=FLOOR, **env)
        house.data_dir = disk / "hades"
        stack.enter_context(house)
        if request.param == "sandbox":
            load_image(house, "busybox")
        yield house, disk


def test_a_worker_whose_disk_is_full_waits_for_room(
    house_and_disk: tuple[FaultHouse, Path],
) -> None:
    house, disk = house_and_disk
    worker = house.worker(concurrency=2)
    before = house.post(job(ticking(1), network="none", **house.calling()))
    assert house.finish(before)[0].state == "Succeeded"

    filler = fill(disk)
    until(lambda: "disk" in house.paused(worker), "the worker says that its disk is full")
    waiting = [house.post(job(ticking(0.4), network="none", **house.calling())) for _ in range(3)]
    assert ("paused", house.paused(worker)) in house.shown_workers()
    assert {house.record(job_id).attempt for job_id in waiting} == {0}

    filler.unlink()
    for record in house.finish(*waiting):
        assert (record.state, record.attempt, record.errors) == ("Succeeded", 1, 0)
    assert house.probe(worker, "/readyz").status_code == 200
    house.check()


def test_jobs_are_refused_while_the_disk_of_nats_is_full(tmp_path: Path) -> None:
    with small_disk("24m") as disk, FaultHouse(disk, "dummy") as house:
        house.worker(concurrency=2)
        running = house.post(job("echo begins\nsleep 6\necho ends", **house.calling()))
        house.await_output(running, "begins")

        filler = fill(disk)
        big = {"TEXT": "x" * 100_000}
        until(lambda: is_refused(house, big), "a job is refused")
        filler.unlink()
        house.nats.restart()

        assert house.finish(running)[0].state == "Succeeded"
        late = house.post(job("echo late", **house.calling()))
        assert house.finish(late)[0].state == "Succeeded"
        house.check()


def is_refused(house: FaultHouse, metadata: dict[str, str]) -> bool:
    answer = house.ask(job("true", metadata=metadata))
    return answer is not None and answer.status_code == 503
