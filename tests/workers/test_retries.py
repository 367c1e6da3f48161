"""Jobs that ask for another try."""

from __future__ import annotations

import pytest

from executors.job import JobState, Retry, RetryOn, Step
from tests.workers.sites import job_of


def test_a_job_is_run_again_in_a_fresh_workspace_as_often_as_it_asks(site) -> None:
    record = site.run("cat seen\nwrite seen it\nexit 3", retry=Retry(max=2))
    site.idle()
    assert (record.state, record.reason) == (JobState.FAILED, "container exited with status 3")
    assert (record.attempt, record.tries, record.errors, record.lost) == (3, 2, 0, 0)
    assert site.states(record.id) == [*["Queued", "Running"] * 3, "Failed"]
    assert site.lines(record.id) == ["cat: seen: No such file"]


def test_while_a_job_waits_for_its_next_try_it_says_why_the_last_one_failed(site) -> None:
    job = job_of("exit 3", retry=Retry(max=1, backoff_seconds=60))
    site.queue.put(job)
    site.start()
    waiting = site.until(job.id, JobState.QUEUED, attempt=1)
    assert (waiting.reason, waiting.tries) == ("container exited with status 3", 1)
    stopped = site.queue.stop(job.id)
    assert stopped.state is JobState.STOPPED
    site.idle()


@pytest.mark.parametrize("end", [RetryOn.TIMEOUT, RetryOn.OOM, RetryOn.IMAGE])
def test_a_job_is_not_run_again_after_an_end_that_it_does_not_name(site, end) -> None:
    record = site.run("exit 3", retry=Retry(max=5, on=(end,)))
    assert (record.state, record.attempt) == (JobState.FAILED, 1)


def test_a_job_whose_image_could_not_be_had_may_be_tried_again(site) -> None:
    missing = Step(image="no-such-image:1")
    record = site.run(steps=(missing,), retry=Retry(max=1, on=(RetryOn.IMAGE,)))
    assert (record.state, record.tries) == (JobState.FAILED, 1)


def test_a_job_that_succeeds_is_not_tried_again(site) -> None:
    record = site.run("true", retry=Retry(max=5, on=tuple(RetryOn)))
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)


def test_a_step_is_run_again_in_the_same_workspace_and_its_tries_are_counted(site) -> None:
    step = Step(
        image="i", script="cat seen\nwrite seen it\nexit 3", retry=Retry(max=1), name="flaky"
    )
    record = site.run(steps=(step, Step(image="i", script="true")))
    assert (record.state, record.attempt, record.tries) == (JobState.FAILED, 1, 0)
    assert [(each.state, each.tries) for each in record.steps] == [("Failed", 2), ("Skipped", 0)]


def test_a_step_that_waits_for_its_next_run_can_be_stopped(site) -> None:
    step = Step(image="i", script="echo failed\nexit 3", retry=Retry(max=1, backoff_seconds=60))
    job = job_of(steps=(step,))
    site.queue.put(job)
    site.start()
    for item in site.reader.follow(job.id):
        if getattr(item, "body", {}).get("logs"):
            break
    site.queue.stop(job.id)
    site.idle()
    assert site.store.get(job.id).state is JobState.STOPPED
    assert site.run("true").state is JobState.SUCCEEDED
