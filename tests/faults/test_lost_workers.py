"""Workers that die, or stand still for longer than the ack wait, at each phase of an attempt.

One worker holds a job at each phase; then it is lost, with all of them at once.
"""

from __future__ import annotations

import signal

import pytest

from brokers.records import JobRecord
from tests.acceptance.processes import until
from tests.faults.house import FaultHouse, halting
from tests.faults.phases import CLAIMED_ONCE, Phase


def hold_all(house: FaultHouse) -> dict[Phase, str]:
    """A job at each phase."""
    jobs = {phase: house.post(halting(phase, **house.calling())) for phase in Phase}
    for phase, job_id in jobs.items():
        if phase is Phase.RUNNING:
            house.await_output(job_id, "ready")
        else:
            house.halted(phase, job_id)
    return jobs


def assert_attempts(phase: Phase, record: JobRecord) -> None:
    expected = (1, 0) if phase in CLAIMED_ONCE else (2, 1)
    assert (record.state, record.reason) == ("Succeeded", ""), phase
    assert (record.attempt, record.lost) == expected, phase
    assert [step.state for step in record.steps] == ["Succeeded"] * 2


def test_a_killed_workers_jobs_are_done_by_another_one(stack: FaultHouse) -> None:
    stack.gate.shut()
    victim = stack.halting_worker()
    jobs = hold_all(stack)
    stack.worker(concurrency=len(Phase))

    victim.kill()

    for phase, record in zip(jobs, stack.finish(*jobs.values()), strict=True):
        assert_attempts(phase, record)
    stack.gate.open()


def test_a_worker_that_stood_still_changes_nothing_any_more(stack: FaultHouse) -> None:
    stack.gate.shut()
    victim = stack.halting_worker()
    jobs = hold_all(stack)
    stack.worker(concurrency=len(Phase))

    victim.signal(signal.SIGSTOP)
    taken = [job_id for phase, job_id in jobs.items() if phase not in CLAIMED_ONCE]
    for job_id in taken:
        stack.until_state(job_id, "Running", attempt=2)
    stack.gate.open()
    victim.signal(signal.SIGCONT)

    for phase, record in zip(jobs, stack.finish(*jobs.values()), strict=True):
        assert_attempts(phase, record)
    until(lambda: stack.idle(victim), "the worker has given up what it lost")
