"""Three minutes without NATS. They pass while the other tests of this room run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.processes import until
from tests.faults.jobs import job
from tests.faults.long_outage import LongOutage

pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.sandbox, pytest.mark.timeout(400)]


def test_nats_goes_away_for_long_and_everybody_says_so(outage: LongOutage) -> None:
    for house in outage.houses:
        until(lambda house=house: outage.health(house) == [503] * 3, "all say that they are away")
    with ThreadPoolExecutor() as pool:
        posts = [pool.submit(house.ask, job("true")) for house in outage.houses]
        cancels = [pool.submit(house.cancel, outage.jobs[house][0]) for house in outage.houses]
        assert {answer.result().status_code for answer in (*posts, *cancels)} == {503}
    for house in outage.houses:
        assert house.api.alive and house.logs_manager.alive and house.workers[0].alive


def test_nats_was_away_for_long_and_all_have_recovered_by_themselves(outage: LongOutage) -> None:
    outage.end()

    for house in outage.houses:
        until(lambda house=house: outage.health(house) == [200] * 3, "all are there again")
        for record in house.finish(*outage.jobs[house]):
            assert (record.state, record.attempt, record.lost) == ("Succeeded", 1, 0)
        late = house.post(job("true", **house.calling()))
        assert house.finish(late)[0].state == "Succeeded"
        house.check()
