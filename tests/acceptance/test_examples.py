"""The examples and the command line, as the README prints them."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from app.launch import ROOT
from tests.acceptance.stack import Stack

EXAMPLES = {
    "hello.json": [["Hello from Hello"]],
    "three-steps.json": [
        ["wrote 26 bytes to /shared/output.txt"],
        ["made it upper case"],
        ["HELLO FROM THE UNDERWORLD"],
    ],
}

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, house: Stack) -> Path:
    """An example's file; its images are there."""
    if request.param == "three-steps.json":
        request.getfixturevalue("debian")
    return ROOT / "examples" / str(request.param)


def test_an_example_runs_from_the_post_to_its_log(stack: Stack, example: Path) -> None:
    job_id, end = stack.run(example)

    assert (end.state, end.reason) == ("Succeeded", "")
    assert stack.steps(job_id) == EXAMPLES[example.name]
    assert stack.witness.states(job_id) == ["Queued", "Running", "Succeeded"]


def test_submit_follows_an_example_to_its_end(stack: Stack, example: Path) -> None:
    done = submit(stack, str(example))

    job_id, *lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines == [line for step in EXAMPLES[example.name] for line in step]
    assert stack.status(job_id) == "Succeeded"


def test_submit_tells_why_a_job_failed(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(
        '{"name": "x", "steps": [{"image": "alpine:latest", "script": "echo no >&2; exit 7"}]}'
    )
    done = submit(stack, str(file))

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "no",
        "Error: Failed: container exited with status 7",
    ]


def submit(stack: Stack, file: str) -> CompletedProcess[str]:
    return stack.hades(
        "submit", file, "--follow", "--url", stack.api_url, "--logs-url", stack.logs_url
    )


def test_forty_instant_jobs_have_forty_ends_and_leave_nothing(stack: Stack) -> None:
    steps = [{"image": "alpine:latest", "script": "echo $JOB_NAME"}]
    jobs = {
        stack.submit({"name": f"job {number}", "priority": number % 4, "steps": steps}): number
        for number in range(40)
    }
    stack.settle()

    for job_id, number in jobs.items():
        assert stack.witness.states(job_id) == ["Queued", "Running", "Succeeded"]
        assert stack.lines(job_id) == [f"job {number}"]
    assert stack.leftovers() == []
    assert set(jobs) <= set(stack.get("/jobs")["jobs"])


def test_a_masked_value_is_nowhere_to_be_read(stack: Stack) -> None:
    secret = "correct-horse-battery-staple"
    script = 'echo "before $DEPLOY_PASSWORD after"; test -n "$DEPLOY_PASSWORD"'
    step = {"image": "alpine:latest", "script": script, "metadata": {"DEPLOY_PASSWORD": secret}}
    job_id, end = stack.run({"name": "secret", "steps": [step]})

    assert end.state == "Succeeded"
    [line] = stack.lines(job_id)
    assert line.startswith("before ") and line.endswith(" after")
    assert secret not in line
    assert secret not in stack.printed()
    assert secret not in str(stack.witness.record(job_id))
