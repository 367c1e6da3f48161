from dataclasses import asdict

import pytest

from executors.job import Job, Priority, Step
from executors.plain import plain

STEP = Step(image="alpine", script="true", metadata={"A": "b"}, continue_on_error=True)
JOB = Job(id="1", name="job", steps=(STEP, Step(image="busybox")), metadata={"C": "d"})


@pytest.mark.parametrize(
    "value", [JOB, STEP, Job(id="2", name="", steps=()), Job(id="3", name="", steps=[STEP])]
)
def test_it_is_what_the_standard_library_makes_of_it(value):
    assert plain(value) == asdict(value)
    assert list(plain(value)) == list(asdict(value))


def test_what_can_change_is_copied():
    metadata = {"A": "b"}
    made = plain(Step(image="alpine", metadata=metadata))
    made["metadata"]["A"] = "changed"
    assert metadata == {"A": "b"}


def test_members_of_enumerations_stay_what_they_are():
    assert plain([Priority.HIGH]) == [Priority.HIGH]
