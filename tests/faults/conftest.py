"""One installation an executor: tests break it again and again, and each time it must recover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import (
    EXECUTORS,
    load_image,
    need_sandbox,
    open_directory,
    pytest_runtest_makereport,
)
from tests.faults.house import FaultHouse
from tests.faults.long_outage import LongOutage

__all__ = ["pytest_runtest_makereport"]

# nats-py lets go of a connection that a standing server never answered without closing it
ABANDONED = "ignore:unclosed <StreamWriter:ResourceWarning"
FIRST, LAST = "test_nats_goes_away_for_long", "test_nats_was_away_for_long"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long outage begins before all else, and is over after it."""
    ours = [item for item in items if "tests/faults/" in item.nodeid]
    for item in ours:
        item.add_marker(pytest.mark.filterwarnings(ABANDONED))
    places = [index for index, item in enumerate(items) if item in ours]
    for index, item in zip(places, sorted(ours, key=_turn), strict=True):
        items[index] = item


def _turn(item: pytest.Item) -> int:
    return item.name.startswith(LAST) - item.name.startswith(FIRST)


@pytest.fixture(scope="session", params=EXECUTORS)
def whole_house(request: pytest.FixtureRequest) -> Iterator[FaultHouse]:
    """NATS, the API and the log manager, with a small image; no worker."""
    need(request, request.param)
    with open_directory() as directory, FaultHouse(directory, request.param) as house:
        load_image(house, "busybox")
        yield house


@pytest.fixture(scope="session")
def whole_office() -> Iterator[FaultHouse]:
    """An installation that runs no processes for its jobs."""
    with open_directory() as directory, FaultHouse(directory, "dummy") as house:
        yield house


@pytest.fixture
def stack(whole_house: FaultHouse) -> Iterator[FaultHouse]:
    """Afterwards all that has happened is checked; a worker does what is left to do."""
    yield from checked(whole_house)


@pytest.fixture
def office(whole_office: FaultHouse) -> Iterator[FaultHouse]:
    """The same."""
    yield from checked(whole_office)


@pytest.fixture(scope="session")
def outage(request: pytest.FixtureRequest) -> Iterator[LongOutage]:
    """Of an installation with a worker of each executor."""
    for executor in ("docker", "sandbox"):
        need(request, executor)
    with open_directory() as directory, LongOutage(directory) as outage:
        yield outage


def need(request: pytest.FixtureRequest, executor: str) -> None:
    """What it needs of this machine."""
    if executor == "docker":
        request.getfixturevalue("engine")
    else:
        with open_directory() as directory:
            need_sandbox(directory)


def checked(house: FaultHouse) -> Iterator[FaultHouse]:
    house.recent(forget=True)
    yield house
    house.gate.open()
    try:
        if not any(worker.alive for worker in house.workers):
            house.worker()
        house.check()
    finally:
        house.kill_workers()
