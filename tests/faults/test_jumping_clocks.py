"""The wall clocks of all of the house's programs jump by hours, forth and back, amid jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import EXECUTORS, load_image, open_directory
from tests.acceptance.processes import until
from tests.faults.conftest import need
from tests.faults.jobs import job, ticking
from tests.faults.shifted_house import ShiftedHouse

HOUR = 3600.0
PATIENT = {"HADES_CALLBACK_MAX_AGE": "24h", "HADES_CALLBACK_BACKOFF": "3s"}
"""As it is by default; and pauses of seconds, that the server counts, or of less."""


@pytest.fixture(params=EXECUTORS)
def house(request: pytest.FixtureRequest) -> Iterator[ShiftedHouse]:
    need(request, request.param)
    with open_directory() as directory, ShiftedHouse(directory, request.param, **PATIENT) as house:
        load_image(house, "busybox")
        yield house


def test_clocks_that_jump_lose_nothing_and_run_nothing_twice(house: ShiftedHouse) -> None:
    worker = house.worker(concurrency=2)
    for offset in (2 * HOUR, -2 * HOUR, 0.0):
        fields = {"timeout_seconds": 120, **house.calling(500, 500, 200)}
        running = house.post(job(ticking(4), ticking(0.4), **fields))
        house.await_output(running, "ready")
        waiting = [house.post(job(ticking(0.4), **fields)) for _ in range(2)]

        house.jump(offset)
        later = house.post(job(ticking(0.4), **fields))
        for record in house.finish(running, *waiting, later):
            assert (record.state, record.attempt, record.reason) == ("Succeeded", 1, "")
        until(lambda: ("running", "") in house.shown_workers(), "the worker is known")

    assert house.probe(worker, "/readyz").status_code == 200
    house.check()
