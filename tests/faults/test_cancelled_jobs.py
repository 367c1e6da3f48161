"""Jobs that are stopped, wherever they are."""

from __future__ import annotations

from time import monotonic

from tests.acceptance.processes import until
from tests.executors.trickle import trickling_registry
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

GONE_SECONDS = 10.0
"""The promise is two; machines are shared."""


def test_a_queued_job_that_is_cancelled_never_runs(stack: FaultHouse) -> None:
    job_id = stack.post(job(ticking(1), **stack.calling()))

    answer = stack.cancel(job_id)
    assert (answer.status_code, answer.json()["state"]) == (200, "Stopped")
    assert stack.cancel(job_id).json()["state"] == "Stopped"

    stack.worker()
    other = stack.post(job("true"))
    stack.finish(other)
    assert stack.record(job_id).attempt == 0


def test_a_running_job_that_is_cancelled_is_gone_in_seconds(stack: FaultHouse) -> None:
    stack.worker()
    job_id = stack.post(job(ticking(60), **stack.calling()))
    stack.await_output(job_id, "ready")
    until(lambda: stack.lookout.alive(job_id), "its step is seen")

    begun = monotonic()
    assert stack.cancel(job_id).status_code == 200
    until(lambda: not stack.lookout.alive(job_id), "its step is gone")
    until(lambda: not stack.leftovers(), "nothing is left")
    print(f"gone {monotonic() - begun:.2f} s after the cancel")

    assert monotonic() - begun < GONE_SECONDS
    assert stack.record(job_id).state == "Stopped"
    done = stack.post(job("true"))
    assert stack.finish(done)[0].state == "Succeeded"


def test_a_job_whose_image_is_being_pulled_can_be_cancelled(stack: FaultHouse) -> None:
    worker = stack.worker()
    with trickling_registry() as registry:
        job_id = stack.post(job("true", image=registry.image, **stack.calling()))
        assert registry.begun.wait(30.0)

        begun = monotonic()
        assert stack.cancel(job_id).status_code == 200
        until(lambda: stack.idle(worker), "the worker is free")
        print(f"free {monotonic() - begun:.2f} s after the cancel")
        assert monotonic() - begun < GONE_SECONDS


def test_a_cancel_without_nats_is_no_lie(stack: FaultHouse) -> None:
    """It is not answered with success, and what becomes of the job is one thing."""
    stack.worker()
    job_id = stack.post(job(ticking(3), **stack.calling()))
    stack.await_output(job_id, "ready")

    stack.nats.kill()
    try:
        answer = stack.cancel(job_id)
    finally:
        stack.nats.start()

    assert answer.status_code == 503
    assert stack.finish(job_id)[0].state == "Succeeded"
