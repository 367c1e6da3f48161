"""The Docker Engine dies or stands still under jobs: the worker pauses, and nothing counts."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import open_directory
from tests.acceptance.processes import Process, until
from tests.executors.engines import OwnEngine, own_engine
from tests.faults.conftest import checked
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

pytestmark = [
    pytest.mark.docker,
    # the SDK leaves the sockets of broken connections to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def engine_of_our_own() -> Iterator[OwnEngine]:
    with own_engine() as engine:
        engine.load_image()
        yield engine


@pytest.fixture(scope="module")
def house(engine_of_our_own: OwnEngine) -> Iterator[FaultHouse]:
    host = engine_of_our_own.settings.host
    with open_directory() as directory, FaultHouse(directory, "docker", DOCKER_HOST=host) as house:
        yield house


@pytest.fixture
def stack(house: FaultHouse) -> Iterator[FaultHouse]:
    yield from checked(house)


@pytest.fixture
def worker(stack: FaultHouse) -> Process:
    return stack.worker(concurrency=2)


def some_jobs(house: FaultHouse) -> list[str]:
    """Two run, two wait."""
    jobs = [house.post(job(ticking(3), network="none", **house.calling())) for _ in range(4)]
    until(lambda: sum(map(house.lookout.alive, jobs)) == 2, "two of them run")
    return jobs


def assert_paused(house: FaultHouse, worker: Process, why: str) -> None:
    until(lambda: why in house.paused(worker), "the worker says why it takes no jobs", 90.0)
    assert house.probe(worker, "/readyz").status_code == 503
    until(
        lambda: any(state == "paused" and why in reason for state, reason in house.shown_workers()),
        "the API says so too",
    )


def assert_uncounted(house: FaultHouse, jobs: list[str]) -> None:
    for record in house.finish(*jobs):
        assert (record.state, record.reason) == ("Succeeded", "")
        assert (record.lost, record.errors, record.tries) == (0, 0, 0)


def test_jobs_of_a_killed_engine_are_done_when_it_is_back(
    stack: FaultHouse, worker: Process, engine_of_our_own: OwnEngine
) -> None:
    jobs = some_jobs(stack)

    engine_of_our_own.send(signal.SIGKILL)
    assert_paused(stack, worker, "no Docker Engine can be used")
    waiting = stack.post(job("true", network="none", **stack.calling()))
    assert stack.record(waiting).attempt == 0
    engine_of_our_own.start()

    until(lambda: not stack.paused(worker), "the worker takes jobs again")
    assert_uncounted(stack, [*jobs, waiting])


def test_jobs_of_an_engine_that_stands_still_are_done_when_it_goes_on(
    stack: FaultHouse, worker: Process, engine_of_our_own: OwnEngine
) -> None:
    jobs = some_jobs(stack)

    engine_of_our_own.send(signal.SIGSTOP)
    try:
        assert_paused(stack, worker, "no Docker Engine can be used")
    finally:
        engine_of_our_own.send(signal.SIGCONT)

    until(lambda: not stack.paused(worker), "the worker takes jobs again")
    assert_uncounted(stack, jobs)
