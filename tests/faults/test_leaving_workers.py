"""Workers that are told to go: they finish what they can, and hand back the rest uncounted."""

from __future__ import annotations

import time

from brokers.records import JobRecord
from tests.acceptance.processes import until
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

DEAF = 'trap "" TERM INT; '
"""A step that does not listen to signals."""


def assert_uncounted(record: JobRecord) -> None:
    assert (record.state, record.attempt) == ("Succeeded", 2)
    assert (record.lost, record.errors, record.tries) == (0, 0, 0)


def test_a_leaving_worker_finishes_within_its_grace_and_hands_back_the_rest(
    stack: FaultHouse,
) -> None:
    worker = stack.worker(concurrency=2, HADES_SHUTDOWN_TIMEOUT="3")
    short = stack.post(job(ticking(1.0), **stack.calling()))
    long = stack.post(job(DEAF + ticking(7.0), **stack.calling()))
    stack.await_output(long, "ready")

    worker.terminate()
    until(lambda: any("Shutting" in line for line in worker.lines), "it begins to shut down")
    late = stack.post(job(ticking(0.2)))
    assert stack.probe(worker, "/readyz").status_code == 503

    assert worker.wait() == 0
    assert stack.record(short).attempt == 1
    assert (stack.record(long).state, stack.record(late).attempt) == ("Queued", 0)
    until(lambda: not stack.lookout.alive(long), "its step is gone")

    stack.worker(concurrency=2)
    assert_uncounted(stack.finish(long)[0])
    assert [record.attempt for record in stack.finish(short, late)] == [1, 1]


def test_a_second_sigterm_hands_back_at_once(stack: FaultHouse) -> None:
    worker = stack.worker(HADES_SHUTDOWN_TIMEOUT="600")
    job_id = stack.post(job(ticking(6.0), **stack.calling()))
    stack.await_output(job_id, "ready")

    worker.terminate()
    time.sleep(1.5)
    assert worker.alive
    assert stack.record(job_id).state == "Running"
    worker.terminate()

    assert worker.wait() == 0
    assert stack.record(job_id).state == "Queued"
    stack.worker()
    assert_uncounted(stack.finish(job_id)[0])


def test_a_step_that_ignores_signals_is_ended_by_its_time_and_by_a_cancel(
    stack: FaultHouse,
) -> None:
    stack.worker(concurrency=2)
    timed = stack.post(job(DEAF + ticking(60), timeout_seconds=2, **stack.calling()))
    cancelled = stack.post(job(DEAF + ticking(60), **stack.calling()))
    stack.await_output(cancelled, "ready")

    assert stack.cancel(cancelled).json()["state"] == "Stopped"

    first, second = stack.finish(timed, cancelled)
    assert (first.state, first.reason) == ("Failed", "job timed out after 2 seconds")
    assert second.state == "Stopped"
    until(lambda: not stack.lookout.alive(cancelled), "its step is gone")
