import json

import pytest

from executors.job import Job, JobState, Priority, Step, environment

JOB = Job(
    id="11111111-2222-4333-8444-555555555555",
    name="job",
    metadata={"A": "job", "B": "job", "UUID": "mine"},
    steps=(
        Step(id=1, name="first", image="alpine", script="true", metadata={"B": "step"}),
        Step(id=2, image="alpine", memory_limit=2**30, continue_on_error=True),
    ),
    timeout_seconds=60,
)


def test_a_job_survives_its_way_through_json():
    assert Job.from_dict(json.loads(json.dumps(JOB.to_dict()))) == JOB


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
