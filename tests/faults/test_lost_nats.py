"""NATS is killed, stands still or is away, while jobs run and wait: all go on by themselves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.acceptance.processes import until
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

STANDSTILL_SECONDS = 10.0


def some_jobs(house: FaultHouse) -> tuple[str, str, str]:
    """One that ends during the fault, one that outlives it, one that waits."""
    first = house.post(job(ticking(1.5), **house.calling()))
    second = house.post(job(ticking(9.0), ticking(0.4), **house.calling()))
    house.await_output(second, "ready")
    third = house.post(job(ticking(0.4), **house.calling()))
    return first, second, third


def assert_once(house: FaultHouse, jobs: tuple[str, ...]) -> None:
    for record in house.finish(*jobs):
        assert (record.state, record.attempt, record.lost) == ("Succeeded", 1, 0)


def test_nats_killed_amid_jobs_runs_none_of_them_twice(stack: FaultHouse) -> None:
    for _ in range(2):
        stack.worker(concurrency=1)
    jobs = some_jobs(stack)

    stack.nats.kill()
    until(lambda: not is_ready(stack), "the API says that it is not ready")
    time.sleep(4.0)
    stack.nats.start()

    assert_once(stack, jobs)
    until(lambda: is_ready(stack), "the API is ready")


def test_nats_that_stands_still_longer_than_the_ack_wait_runs_none_of_them_twice(
    stack: FaultHouse,
) -> None:
    for _ in range(2):
        stack.worker(concurrency=1)
    jobs = some_jobs(stack)

    os.kill(stack.nats.pid, signal.SIGSTOP)
    try:
        time.sleep(STANDSTILL_SECONDS)
    finally:
        os.kill(stack.nats.pid, signal.SIGCONT)

    assert_once(stack, jobs)


def test_a_submission_while_nats_is_away_is_refused_or_done(office: FaultHouse) -> None:
    """Whatever is answered is so: the checker finds the job that was refused and ran."""
    office.worker(concurrency=2)
    office.finish(office.post(job("true")))
    os.kill(office.nats.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            bodies = [job("sleep 0.2") for _ in range(2)]
            refused = list(pool.map(office.ask, bodies, ("/v1/jobs", "/build")))
    finally:
        os.kill(office.nats.pid, signal.SIGCONT)

    assert [answer is not None and answer.status_code for answer in refused] == [503, 500]
    assert_once(office, (office.post(job("sleep 0.2", **office.calling())),))


def is_ready(house: FaultHouse) -> bool:
    """Whether the API says so."""
    return asked(house, lambda: httpx.get(f"{house.api_url}/readyz", timeout=10.0)) == 200


def asked(house: FaultHouse, ask: Callable[[], httpx.Response]) -> int:
    """The status; 0: no answer."""
    try:
        return ask().status_code
    except httpx.HTTPError:
        return 0
