import json

import pytest

from executors.job import Job, JobState, Priority, Retry, RetryOn, Step, environment

JOB = Job(
    id="11111111-2222-4333-8444-555555555555",
    name="job",
    metadata={"A": "job", "B": "job", "UUID": "mine"},
    steps=(
        Step(id=1, name="first", image="alpine", script="true", metadata={"B": "step"}),
        Step(
            id=2,
            image="alpine",
            memory_limit=2**30,
            continue_on_error=True,
            timeout_seconds=5,
            retry=Retry(max=2, backoff_seconds=0.5, on=(RetryOn.OOM, RetryOn.IMAGE)),
        ),
    ),
    callback_url="http://example.org/log",
    status_callback_url="http://example.org/state",
    timeout_seconds=60,
    retry=Retry(max=1),
    submitted_by="moodle",
)


def test_a_job_survives_its_way_through_json():
    assert Job.from_dict(json.loads(json.dumps(JOB.to_dict()))) == JOB


def test_a_job_of_the_version_before_is_still_read():
    before = json.loads(json.dumps(JOB.to_dict()))
    for name in ("status_callback_url", "retry", "submitted_by"):
        del before[name]
    for step in before["steps"]:
        del step["timeout_seconds"], step["retry"]
    job = Job.from_dict(before)
    assert (job.status_callback_url, job.retry, job.submitted_by) == ("", Retry(), "")
    assert (job.steps[1].timeout_seconds, job.steps[1].retry) == (0, Retry())
    assert job.steps[1].memory_limit == 2**30


def test_a_retry_survives_its_way_through_json():
    retry = JOB.steps[1].retry
    assert Retry.from_dict(json.loads(json.dumps(retry.to_dict()))) == retry
    assert Retry.from_dict({}) == Retry()


@pytest.mark.parametrize("data", [{"on": ["never"]}, {"on": 1}, {"unknown": 1}])
def test_what_is_no_retry_is_not_taken_for_one(data):
    with pytest.raises((TypeError, ValueError)):
        Retry.from_dict(data)


def test_each_pause_is_twice_the_last_and_none_is_longer_than_five_minutes():
    retry = Retry(max=10, backoff_seconds=40)
    assert [retry.pause(number) for number in (1, 2, 3, 4, 5, 10_000)] == [40, 80, 160, *[300] * 3]
    assert Retry(max=1).pause(1) == 0


@pytest.mark.parametrize("data", [{}, {"steps": [{}]}, {**JOB.to_dict(), "unknown": 1}])
def test_what_is_no_job_is_not_taken_for_one(data):
    with pytest.raises((KeyError, TypeError)):
        Job.from_dict(data)


def test_a_steps_metadata_wins_over_its_jobs():
    found = environment(JOB, JOB.steps[0])
    assert (found["A"], found["B"]) == ("job", "step")
    assert environment(JOB, JOB.steps[1])["B"] == "job"


def test_nobody_overrides_the_jobs_id_and_name():
    step = Step(image="alpine", metadata={"JOB_NAME": "mine", "UUID": "mine"})
    found = environment(JOB, step)
    assert (found["UUID"], found["JOB_NAME"]) == (JOB.id, "job")


def test_a_step_finds_its_jobs_priority():
    found = environment(JOB, JOB.steps[0])
    assert found["hades.tum.de/priority"] == "3"
    assert found["hades.tum.de/priorityName"] == "high"


@pytest.mark.parametrize(
    ("number", "label"),
    [(-(2**63), "low"), (0, "low"), (1, "low"), (2, "medium"), (3, "high"), (99, "high")],
)
def test_every_number_is_one_of_three_priorities(number, label):
    assert Priority.of(number).label == label


def test_a_step_is_called_by_its_name_or_else_its_number():
    assert [step.label for step in JOB.steps] == ["first", "2"]


def test_three_states_are_final():
    assert {state for state in JobState if state.final} == {"Succeeded", "Failed", "Stopped"}
