"""Workers that die, or stand still for longer than the ack wait, at each phase of an attempt.

One worker holds a job at each phase; then it is lost, with all of them at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from brokers.records import JobRecord
from tests.acceptance.processes import Process, until
from tests.faults.house import FaultHouse
from tests.faults.jobs import halting, job, ticking
from tests.faults.phases import CLAIMED_ONCE, Phase


@pytest.fixture
def victim(stack: FaultHouse) -> Iterator[Process]:
    stack.gate.shut()
    victim = stack.halting_worker()
    yield victim
    if victim.alive:
        victim.signal(signal.SIGCONT)


@pytest.fixture
def held(stack: FaultHouse, victim: Process) -> dict[Phase, str]:
    """A job at each phase, all of the same worker."""
    jobs = {phase: stack.post(halting(phase, **stack.calling())) for phase in Phase}
    for phase in set(Phase) - {Phase.RUNNING}:
        stack.halted(phase, jobs[phase])
    stack.await_output(jobs[Phase.RUNNING], "ready")
    return jobs


def assert_attempts(phase: Phase, record: JobRecord) -> None:
    expected = (1, 0) if phase in CLAIMED_ONCE else (2, 1)
    assert (record.state, record.reason) == ("Succeeded", ""), phase
    assert (record.attempt, record.lost) == expected, phase
    assert [step.state for step in record.steps] == ["Succeeded"] * 2


def assert_all_done(house: FaultHouse, jobs: dict[Phase, str]) -> None:
    for phase, record in zip(jobs, house.finish(*jobs.values()), strict=True):
        assert_attempts(phase, record)


def test_a_killed_workers_jobs_are_done_by_another_one(
    stack: FaultHouse, victim: Process, held: dict[Phase, str]
) -> None:
    victim.kill()
    stack.worker(concurrency=len(Phase))

    assert_all_done(stack, held)


def test_a_worker_that_stood_still_runs_nothing_that_another_one_runs(
    stack: FaultHouse, victim: Process, held: dict[Phase, str]
) -> None:
    victim.signal(signal.SIGSTOP)
    stack.worker(concurrency=len(Phase))
    for phase, job_id in held.items():
        if phase not in CLAIMED_ONCE:
            stack.until_attempt(job_id, 2)
    stack.gate.open()
    victim.signal(signal.SIGCONT)

    assert_all_done(stack, held)
    until(lambda: stack.idle(victim), "the worker has given up what it lost")


def test_a_worker_that_stood_still_changes_nothing_that_is_over(
    stack: FaultHouse, victim: Process, held: dict[Phase, str]
) -> None:
    victim.signal(signal.SIGSTOP)
    stack.worker(concurrency=len(Phase))
    assert_all_done(stack, held)
    stack.gate.open()
    victim.signal(signal.SIGCONT)

    until(lambda: stack.idle(victim), "the worker has given up what it lost")
    assert_all_done(stack, held)


def test_a_job_that_loses_three_workers_fails_and_says_so(stack: FaultHouse) -> None:
    for _ in range(4):
        stack.worker()
    job_id = stack.post(job(ticking(60), **stack.calling()))

    for attempt in (1, 2, 3):
        stack.until_attempt(job_id, attempt)
        until(lambda: stack.lookout.alive(job_id), "its step runs")
        stack.holder(job_id).kill()

    [record] = stack.finish(job_id)
    assert (record.state, record.reason) == ("Failed", "worker lost 3 times")
    assert record.lost == 3
