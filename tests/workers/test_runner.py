"""What becomes of a job: its end, its log, what is told of it."""

from __future__ import annotations

import json

import pytest

from brokers import subjects
from brokers.events import MAX_REASON
from brokers.queue import message_of
from brokers.records import JobRecord
from executors.base import StepResult
from executors.job import JobState, Step
from executors.secrets import MASK
from tests.workers.sites import job_of
from workers.runner import why


def test_a_job_whose_steps_all_succeed_has_succeeded(site) -> None:
    record = site.run("echo one\nerr two", "echo three")
    assert (record.state, record.reason, record.attempt) == (JobState.SUCCEEDED, "", 1)
    assert [(step.id, step.exit_code) for step in record.steps] == [(1, 0), (2, 0)]
    assert record.started_at <= record.steps[0].started_at <= record.steps[1].finished_at
    assert record.steps[1].finished_at <= record.finished_at
    assert site.lines(record.id) == ["one", "two", "three"]


def test_a_worker_that_is_quicker_than_the_record_makes_it_without_secrets(site) -> None:
    job = job_of("echo one", metadata={"course": "algo", "TOKEN": "t0ps3cret"})
    site.broker.enqueue(message_of(job))
    site.start()
    while site.store.get(job.id) is None:
        pass
    record = site.ended(job.id)
    assert record.state is JobState.SUCCEEDED
    assert record.metadata == {"course": "algo", "TOKEN": MASK}


def test_a_job_without_steps_succeeds_at_once(site) -> None:
    record = site.run()
    assert (record.state, record.steps) == (JobState.SUCCEEDED, ())


def test_the_first_step_that_fails_ends_the_job(site) -> None:
    record = site.run("echo one", "exit 3", "echo never")
    assert record.state is JobState.FAILED
    assert record.reason == "container exited with status 3"
    assert [step.exit_code for step in record.steps] == [0, 3, None]
    assert [step.state for step in record.steps] == ["Succeeded", "Failed", "Skipped"]
    assert site.lines(record.id) == ["one"]


def test_a_step_may_fail_when_it_says_so(site) -> None:
    tolerated = Step(image="i", script="exit 3", continue_on_error=True)
    record = site.run(steps=(tolerated, Step(image="i", script="echo on")))
    assert (record.state, record.reason) == (JobState.SUCCEEDED, "")
    assert [step.exit_code for step in record.steps] == [3, 0]
    assert site.lines(record.id) == ["on"]


def test_a_refused_step_fails_the_job_with_its_reason_also_in_the_log(site) -> None:
    record = site.run(steps=(Step(image="no-such-image:1"),))
    assert record.state is JobState.FAILED
    assert record.reason.startswith("encountered 1 errors while pulling images: failed to pull")
    assert record.steps[0].reason == record.reason
    assert site.lines(record.id) == [f"hades: {record.reason}"]


def test_a_refused_step_may_be_tolerated_too(site) -> None:
    tolerated = Step(image="no-such-image:1", continue_on_error=True)
    record = site.run(steps=(tolerated, Step(image="i", script="echo on")))
    assert record.state is JobState.SUCCEEDED
    assert site.lines(record.id)[-1] == "on"


def test_a_job_that_takes_too_long_is_ended(site) -> None:
    record = site.run("echo begun\nsleep 60", "echo never", timeout_seconds=1)
    assert record.state is JobState.FAILED
    assert record.reason == "job timed out after 1 seconds"
    first, second = record.steps
    assert first.timed_out
    assert (first.state, second.state) == ("Failed", "Skipped")
    assert site.lines(record.id) == ["begun"]


def test_a_step_that_takes_longer_than_its_own_time_fails(site) -> None:
    slow = Step(image="i", name="Test", script="echo begun\nsleep 60", timeout_seconds=1)
    record = site.run(steps=(slow, Step(image="i", script="echo never")), timeout_seconds=600)
    assert record.reason == "step Test timed out after 1 seconds"
    step = record.steps[0]
    assert (step.timed_out, step.reason) == (True, record.reason)
    assert site.lines(record.id) == ["begun", f"hades: {record.reason}"]


def test_a_step_may_use_up_its_own_time_when_it_says_so(site) -> None:
    slow = Step(image="i", script="sleep 60", timeout_seconds=1, continue_on_error=True)
    record = site.run(steps=(slow, Step(image="i", script="echo on")))
    assert record.state is JobState.SUCCEEDED
    assert site.lines(record.id)[-1] == "on"


def test_a_timeout_is_not_tolerated(site) -> None:
    slow = Step(image="i", script="sleep 60", continue_on_error=True)
    record = site.run(
        steps=(slow, Step(image="i", script="echo never")),
        timeout_seconds=1,
    )
    assert record.reason == "job timed out after 1 seconds"


def test_the_environment_is_the_jobs_then_the_steps_then_ours(site) -> None:
    names = (
        "A",
        "B",
        "C",
        "UUID",
        "JOB_NAME",
        "hades.tum.de/priority",
        "hades.tum.de/priorityName",
    )
    step = Step(
        image="i",
        script="\n".join(f"env {name}" for name in names),
        metadata={"B": "step", "C": "step", "UUID": "mine"},
    )
    metadata = {"A": "job", "B": "job", "JOB_NAME": "mine", "hades.tum.de/priority": "9"}
    record = site.run(steps=(step,), metadata=metadata, priority=2)
    assert site.lines(record.id) == ["job", "step", "step", record.id, "a job", "2", "medium"]


def test_secrets_are_masked_in_log_reason_and_record(site, caplog) -> None:
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", logger="dramatiq")
    step = Step(
        image="i",
        script="env API_TOKEN\nerr it is hunter2!\nrefuse no login with hunter2!",
        metadata={"API_TOKEN": "t0ps3cret"},
    )
    record = site.run(steps=(step,), metadata={"DB_PASSWORD": "hunter2!"})
    site.idle()
    assert site.lines(record.id) == [
        MASK,
        f"it is {MASK}",
        f"hades: no login with {MASK}",
    ]
    assert record.reason == record.steps[0].reason == f"no login with {MASK}"
    streams = (subjects.LOG_STREAM, subjects.STATUS_STREAM, subjects.RESULT_STREAM)
    everything = repr([site.stored(stream) for stream in (*streams, site.store.stream)])
    for secret in ("t0ps3cret", "hunter2!"):
        assert secret not in everything
        assert secret not in caplog.text


def test_states_are_told_in_order(site) -> None:
    succeeded, failed = site.run("true"), site.run("false")
    site.idle()
    assert site.states(succeeded.id) == ["Queued", "Running", "Succeeded"]
    assert site.states(failed.id) == ["Queued", "Running", "Failed"]


def test_the_result_is_the_record(site) -> None:
    record = site.run("echo x", "exit 2")
    site.idle()
    [(_, body)] = site.stored(subjects.RESULT_STREAM, subjects.results(record.id))
    assert JobRecord.from_dict(json.loads(body)) == record == site.store.get(record.id)


def test_the_log_is_complete_when_the_end_can_be_seen(site) -> None:
    site.start(threads=2)
    for _ in range(10):
        record = site.run("\n".join(f"echo {number}" for number in range(300)))
        assert site.lines(record.id) == [str(number) for number in range(300)]


def test_every_step_that_was_reached_has_a_slot_in_order(site) -> None:
    record = site.run("true", "echo x", "true", "false", "true")
    slots = [
        (message.step, message.body["container_id"]) for message in site.reader.read(record.id)
    ]
    steps = list(dict.fromkeys(slots))
    assert steps == [(number, f"dummy-{number + 1}") for number in range(4)]


def test_a_long_reason_is_cut(site) -> None:
    record = site.run(f"refuse {'x' * 2000}")
    assert record.reason == "x" * MAX_REASON + "…"


def test_a_log_beyond_its_limit_does_not_change_the_verdict(site) -> None:
    site.runner._log_limit = 1000
    record = site.run("\n".join(["echo 0123456789"] * 2000))
    assert record.state is JobState.SUCCEEDED
    [marker] = [line for line in site.lines(record.id) if line.startswith("hades:")]
    assert "lines are left out" in marker


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (StepResult(exit_code=1), "container exited with status 1"),
        (
            StepResult(exit_code=137, oom_killed=True),
            "container exited with status 137 (out of memory)",
        ),
        (StepResult(exit_code=None, reason="no image"), "no image"),
    ],
)
def test_the_reason_of_a_step_is_in_the_seeds_words(result, reason) -> None:
    assert why(result) == reason


def test_many_jobs_at_once_each_end_once(site) -> None:
    site.start(threads=8)
    jobs = [job_of(f"echo {number}") for number in range(40)]
    for job in jobs:
        site.queue.put(job)
    records = [site.ended(job.id) for job in jobs]
    site.idle()
    assert {(record.state, record.attempt) for record in records} == {(JobState.SUCCEEDED, 1)}
    told = [body.decode() for _, body in site.stored(subjects.STATUS_STREAM)]
    for number, job in enumerate(jobs):
        assert site.lines(job.id) == [str(number)]
        assert told.count(job.id) == len(("Queued", "Running", "Succeeded"))
