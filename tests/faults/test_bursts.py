"""Many at once, and receivers that do not want to hear."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.acceptance.processes import until
from tests.faults.house import FaultHouse
from tests.faults.jobs import job

BURST = 40


def test_forty_instant_jobs_have_forty_ends_and_forty_callbacks(stack: FaultHouse) -> None:
    stack.worker(concurrency=4)
    with ThreadPoolExecutor(8) as pool:
        bodies = [job("true", **stack.calling()) for _ in range(BURST)]
        job_ids = list(pool.map(stack.post, bodies))

    assert [record.state for record in stack.finish(*job_ids)] == ["Succeeded"] * BURST
    stack.settled()
    told = [stack.witness.states(job_id).count("Succeeded") for job_id in job_ids]
    assert told == [1] * BURST
    for kind in ("logs", "status"):
        ends = [each.id for _, each in stack.postbox.arrived if each.kind == kind]
        mine = [each for each in ends if each[:36] in job_ids and "-Succeeded-" in each]
        assert len(mine) == len(set(mine)) == BURST


def test_a_receiver_that_fails_twice_is_told_and_one_that_always_fails_is_given_up(
    office: FaultHouse,
) -> None:
    office.worker()
    stubborn = office.post(job("true", **office.calling(500, 500, 200)))
    never = office.post(job("true", **office.calling(500)))
    office.finish(stubborn, never)

    until(lambda: answers(office, stubborn, "logs") == [500, 500, 200], "told at the third try")
    until(lambda: len(dead(office, never)) >= 2, "the others are given up")
    office.settled()
    assert answers(office, stubborn, "logs") == [500, 500, 200]
    assert set(answers(office, never, "logs")) == {500}
    assert any("-logs-Succeeded-" in each for each in dead(office, never))
    assert any("-status-Succeeded-" in each for each in dead(office, never))
    assert dead(office, stubborn) == []


def answers(house: FaultHouse, job_id: str, kind: str) -> list[int]:
    """What the receiver has answered."""
    return [each.answered for each in house.postbox.of(job_id) if each.kind == kind]


def dead(house: FaultHouse, job_id: str) -> list[str]:
    """Ids of the job's callbacks that were given up."""
    return [each for each in house.replay.dead_callbacks() if each.startswith(job_id)]
