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

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session", params=EXECUTORS)
def whole_house(request: pytest.FixtureRequest) -> Iterator[FaultHouse]:
    """NATS, the API and the log manager, with a small image; no worker."""
    with open_directory() as directory:
        if request.param == "sandbox":
            need_sandbox(directory)
        else:
            request.getfixturevalue("engine")
        with FaultHouse(directory, request.param) as house:
            load_image(house, "busybox")
            yield house


@pytest.fixture
def stack(whole_house: FaultHouse) -> Iterator[FaultHouse]:
    """Afterwards all that has happened is checked; a worker does what is left to do."""
    whole_house.recent(forget=True)
    yield whole_house
    whole_house.gate.open()
    try:
        if not any(worker.alive for worker in whole_house.workers):
            whole_house.worker()
        whole_house.check()
    finally:
        whole_house.stop_workers()
