"""What is stored outlives the programs that serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.acceptance.processes import until
from tests.acceptance.stack import Stack

HELLO = {"name": "hello", "steps": [{"image": "dummy", "script": "echo one\nerr two"}]}
FAILS = {"name": "fails", "steps": [{"image": "dummy", "script": "echo three\nexit 4"}]}


@pytest.fixture(autouse=True)
def a_worker(office: Stack) -> Iterator[None]:
    office.start_worker()
    yield
    office.stop_workers()


def test_states_and_logs_outlive_the_log_manager_and_the_api(office: Stack) -> None:
    hello, _ = office.run(HELLO)
    fails, _ = office.run(FAILS)
    before = {job_id: office.get(f"/jobs/{job_id}/logs") for job_id in (hello, fails)}

    for program in (office.logs_manager, office.api):
        program.stop()
    office.start_logs()
    office.start_api()

    assert {hello, fails} <= set(office.get("/jobs")["jobs"])
    assert [office.status(job_id) for job_id in (hello, fails)] == ["Succeeded", "Failed"]
    assert {job_id: office.get(f"/jobs/{job_id}/logs") for job_id in before} == before
    assert office.lines(hello) == ["one", "two"]
    assert office.run(HELLO)[1].state == "Succeeded"


def test_a_follower_is_told_the_end_across_a_restart_of_the_log_manager(office: Stack) -> None:
    script = "echo begins\nsleep 3\necho ends"
    job_id = office.submit({"name": "long", "steps": [{"image": "dummy", "script": script}]})
    events = office.follow(job_id)
    seen = [getattr(next(events), "message", "") for _ in range(2)]

    office.logs_manager.kill()
    office.start_logs()

    seen += [getattr(event, "message", "") for event in events]
    assert [message for message in seen if message] == ["begins", "ends"]
    office.settle()


def test_a_job_survives_the_death_of_nats(office: Stack) -> None:
    """NATS is gone for longer than the ack wait while the job runs."""
    script = "echo begins\nsleep 2\necho ends"
    job_id = office.submit({"name": "long", "steps": [{"image": "dummy", "script": script}]})
    office.await_output(job_id, "begins")

    office.nats.kill()
    until(refused(office), "a submission without NATS is refused")
    office.nats.start()

    assert office.wait_final(job_id).state == "Succeeded"
    office.settle()
    assert office.lines(job_id) == ["begins", "ends"]
    assert office.witness.states(job_id).count("Succeeded") == 1
    assert office.run(HELLO)[1].state == "Succeeded"


def refused(office: Stack) -> Callable[[], bool]:
    """Whether a submission is answered with an error, and not with a hanging connection."""

    def ask() -> bool:
        answer = httpx.post(f"{office.api_url}/build", json=HELLO, timeout=60.0)
        return answer.status_code in (500, 503)

    return ask
