"""The API and the log manager die, in the middle of what they do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.processes import until
from tests.faults.halting_api import Point
from tests.faults.house import FaultHouse
from tests.faults.jobs import job
from tests.faults.phases import HALT


@pytest.fixture
def mortal(office: FaultHouse) -> Iterator[FaultHouse]:
    """Its API halts where jobs ask for it."""
    office.api.stop()
    office.gate.shut()
    office.start_halting_api()
    yield office
    if office.api.alive:
        office.api.kill()
    office.start_api()


def asking(house: FaultHouse, point: Point) -> dict[str, Any]:
    """A job with whose submission the API comes so far; the API takes it alone, as it has
    callbacks."""
    metadata = {HALT: point, "WHO": str(uuid4())}
    return job("echo ready", metadata=metadata, **house.calling())


def post_until_accepted(house: FaultHouse, body: dict[str, Any]) -> str:
    """As a client does that knows its key."""
    key = {"Idempotency-Key": body["metadata"]["WHO"]}

    def accepted() -> bool:
        answer = house.ask(body, **key)
        return answer is not None and answer.is_success

    until(accepted, "the job is accepted")
    answer = house.ask(body, **key)
    assert answer is not None
    return str(answer.json()["id"])


def test_a_submission_whose_api_dies_can_be_sent_again_and_runs_once(mortal: FaultHouse) -> None:
    """One with a key. One without is nobody's any more, and runs once or never."""
    with_key = [asking(mortal, point) for point in Point]
    without = [asking(mortal, point) for point in Point]
    mortal.worker(concurrency=2)
    with ThreadPoolExecutor(len(with_key) + len(without)) as pool:
        for body in with_key:
            pool.submit(mortal.ask, body, **{"Idempotency-Key": body["metadata"]["WHO"]})
        for body in without:
            pool.submit(mortal.ask, body, "/build")
        for body in (*with_key, *without):
            point, who = body["metadata"][HALT], body["metadata"]["WHO"]
            mortal.journal.await_record(point, by=lambda record, who=who: record.worker == who)
        mortal.api.kill()
    mortal.start_api()

    job_ids = [post_until_accepted(mortal, body) for body in with_key]

    for record in mortal.finish(*job_ids):
        assert (record.state, record.attempt) == ("Succeeded", 1)
    names = [mortal.record(job_id).name for job_id in mortal.replay.job_ids()]
    assert all(names.count(body["name"]) == 1 for body in with_key)
    assert all(names.count(body["name"]) <= 1 for body in without)


def test_callbacks_outlive_the_log_manager(office: FaultHouse) -> None:
    """It dies while some were refused, others are to come, and jobs run."""
    office.worker(concurrency=2)
    refused = office.post(job("true", **office.calling(500, 500, 200)))
    office.finish(refused)
    until(lambda: bool(office.postbox.of(refused)), "the receiver was called")
    running = office.post(job("echo ready\nsleep 2", **office.calling()))

    office.logs_manager.kill()
    office.finish(running)
    dead = office.post(job("true", **office.calling()))
    office.finish(dead)
    office.start_logs()

    for job_id in (refused, running, dead):
        until(lambda job_id=job_id: len(ends(office, job_id)) == 2, "both were told of the end")
    assert office.lines(running)[0] == "ready"


def ends(house: FaultHouse, job_id: str) -> set[str]:
    """Kinds by which the job's end was delivered."""
    return {
        each.kind
        for each in house.postbox.of(job_id)
        if each.answered == 200 and each.state == "Succeeded"
    }
