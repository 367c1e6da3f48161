"""What becomes of jobs when workers are slow, busy, told to go or killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.engine_events import EngineEvents, engine_events
from tests.acceptance.processes import Process, until
from tests.acceptance.stack import Stack

LONG_SECONDS = 45


@pytest.fixture
def events(stack: Stack) -> Iterator[EngineEvents | None]:
    """What the Engine does meanwhile, if there is one under the stack."""
    if stack.executor != "docker":
        yield None
        return
    with engine_events() as listening:
        yield listening


def job(script: str, **fields: Any) -> dict[str, Any]:
    return {"name": "job", "steps": [{"image": "alpine:latest", "script": script}], **fields}


@pytest.mark.slow
def test_a_job_nine_times_as_long_as_the_ack_wait_runs_once(
    stack: Stack, events: EngineEvents | None
) -> None:
    stack.start_worker()
    stack.start_worker()
    job_id, end = stack.run(job(f"echo begins; sleep {LONG_SECONDS}; echo ends"))

    assert end.state == "Succeeded"
    assert stack.lines(job_id) == ["begins", "ends"]
    assert stack.witness.record(job_id).attempt == 1
    assert stack.witness.states(job_id) == ["Queued", "Running", "Succeeded"]
    if events:
        assert events.of(job_id) == ["create", "start", "die", "destroy"]


def test_another_worker_runs_the_job_of_a_killed_one_in_a_clean_workspace(
    stack: Stack, events: EngineEvents | None
) -> None:
    workers = [stack.start_worker(), stack.start_worker()]
    script = (
        'echo "found: $(ls -A /shared)"; echo mine > /shared/leftover; echo ready; sleep 5; '
        'echo "ends with: $(ls -A /shared)"'
    )
    job_id = stack.submit(job(script))
    stack.await_output(job_id, "ready")
    first = stack.witness.record(job_id).worker
    assert stack.leftovers(), "what is there while it runs would be seen"

    holder(workers, first).kill()
    end = stack.wait_final(job_id)
    stack.settle()

    record = stack.witness.record(job_id)
    assert (end.state, record.attempt) == ("Succeeded", 2)
    assert holder(workers, record.worker).alive
    assert stack.lines(job_id) == ["found: ", "ready", "ends with: leftover"]
    assert stack.witness.states(job_id) == ["Queued", "Running", "Running", "Succeeded"]
    assert stack.leftovers() == []
    if events:
        assert events.of(job_id) == ["create", "start", "die", "destroy"] * 2


def holder(workers: list[Process], name: str) -> Process:
    """The worker with this name, which ends with the number of its process that runs jobs."""
    pid = int(name.rpartition("-")[2])
    for worker in workers:
        if worker.alive and pid in worker.children():
            return worker
    raise AssertionError(f"no worker is called {name}")


def test_a_worker_that_is_told_to_go_finishes_its_job_and_takes_no_other(stack: Stack) -> None:
    worker = stack.start_worker(concurrency=2)
    running = stack.submit(job("echo ready; sleep 3; echo done"))
    stack.await_output(running, "ready")

    worker.terminate()
    until(lambda: any("shut" in line.lower() for line in worker.lines), "it begins to shut down")
    waiting = stack.submit(job("echo late"))

    assert worker.wait() == 0
    assert stack.wait_final(running).state == "Succeeded"
    assert stack.lines(running) == ["ready", "done"]
    assert stack.witness.record(running).attempt == 1
    assert stack.witness.states(waiting) == ["Queued"]

    stack.start_worker()
    assert stack.wait_final(waiting).state == "Succeeded"
    assert stack.witness.record(waiting).attempt == 1


def test_high_priorities_go_first_and_low_ones_still_go_on(stack: Stack) -> None:
    """The lanes take turns, weighted 4 to 1: of seven, the lowest has one or two."""
    stack.start_worker()
    busy = stack.submit(job("echo ready; sleep 3"))
    stack.await_output(busy, "ready")

    low = [stack.submit(job("true", priority=1)) for _ in range(7)]
    high = [stack.submit(job("true", priority=3)) for _ in range(7)]
    stack.settle()

    first, *order = stack.witness.running_order()[-15:]
    assert first == busy
    assert len([x for x in order[:7] if x in low]) in (1, 2)
    assert [x for x in order if x in high] == high
    assert [x for x in order if x in low] == low


def test_jobs_that_no_worker_takes_wait_for_the_first_that_comes(stack: Stack) -> None:
    job_ids = [stack.submit(job("true")) for _ in range(3)]
    assert [stack.status(job_id) for job_id in job_ids] == ["Queued"] * 3

    stack.start_worker()

    assert [stack.wait_final(job_id).state for job_id in job_ids] == ["Succeeded"] * 3
