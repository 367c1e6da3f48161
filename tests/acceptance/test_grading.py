"""The grading example: repositories served by git, cloned, tested and reported on by a job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest
from docker import APIClient

from app.launch import ROOT
from tests.acceptance.leftovers import docker_host
from tests.acceptance.repositories import make_repository, served
from tests.acceptance.stack import Stack

GRADING = ROOT / "examples" / "grading"
PASSING = [
    "....                                                                     [100%]",
    "------------------- generated xml file: /shared/results.xml --------------------",
    "4 passed in TIME",
]
FAILING = [
    "..F.                                                                     [100%]",
    "=================================== FAILURES ===================================",
    "/shared/tests/test_median.py:14: assert 3 == 2.5",
    "------------------- generated xml file: /shared/results.xml --------------------",
    "=========================== short test summary info ============================",
    "FAILED test_median.py::test_the_median_of_an_even_count_is_halfway_between_the_middle_two",
    "1 failed, 3 passed in TIME",
]
TESTS = [
    "the_median_of_one_number_is_that_number",
    "the_median_of_an_odd_count_is_the_middle_one",
    "the_median_of_an_even_count_is_halfway_between_the_middle_two",
    "nothing_has_no_median",
]

pytestmark = pytest.mark.usefixtures("worker", "debian")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forge:
    """Where the repositories are, as a step sees it, and their commits."""

    url: str
    commits: dict[str, str]


@pytest.fixture(scope="module")
def forge(house: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    root = tmp_path_factory.mktemp("repositories")
    commits = {
        source.name: make_repository(source, root / source.name, f"Add {source.name}")
        for source in (GRADING / "repositories").iterdir()
    }
    listen, reach = addresses(house.executor)
    with served(root, listen) as port:
        yield Forge(url=f"git://{reach}:{port}", commits=commits)


def addresses(executor: str) -> tuple[str, str]:
    """Where to listen on this machine, and where a step finds that."""
    if executor == "sandbox":
        return "127.0.0.1", "10.0.2.2"
    api = APIClient(docker_host())
    try:
        [bridge] = api.inspect_network("bridge")["IPAM"]["Config"]
    finally:
        api.close()
    subnet = ip_network(bridge["Subnet"])
    gateway = bridge.get("Gateway") or str(next(subnet.hosts()))  # not every Engine says it
    return gateway, gateway


def grading_job(forge: Forge, student: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((GRADING / "job.json").read_text())
    job["steps"][0]["metadata"] |= {
        "HADES_TEST_URL": f"{forge.url}/tests",
        "HADES_ASSIGNMENT_URL": f"{forge.url}/{student}",
    }
    return job


def cloned(forge: Forge, student: str) -> list[str]:
    return [
        f"tests: {forge.commits['tests']} Add tests",
        f"assignment: {forge.commits[student]} Add {student}",
    ]


def report(*outcomes: str) -> list[str]:
    lines = [f"{outcome:<8}test_{name}" for outcome, name in zip(outcomes, TESTS, strict=True)]
    return [*lines, f"{outcomes.count('PASSED')} of {len(TESTS)} tests passed"]


def timeless(lines: list[str]) -> list[str]:
    return [re.sub(r" in \d+\.\d+s$", " in TIME", line) for line in lines]


def test_a_solution_that_passes_its_tests_succeeds(stack: Stack, forge: Forge) -> None:
    job_id, end = stack.run(grading_job(forge, "passing"))

    clone, execute, parse = stack.steps(job_id)
    assert end.state == "Succeeded"
    assert clone == cloned(forge, "passing")
    assert timeless(execute) == PASSING
    assert parse == report("PASSED", "PASSED", "PASSED", "PASSED")


def test_a_solution_that_fails_a_test_fails_and_says_which(stack: Stack, forge: Forge) -> None:
    job_id, end = stack.run(grading_job(forge, "failing"))

    clone, execute, parse = stack.steps(job_id)
    assert (end.state, end.reason) == ("Failed", "container exited with status 1")
    assert clone == cloned(forge, "failing")
    assert timeless(execute) == FAILING
    assert parse == report("PASSED", "PASSED", "FAILURE", "PASSED")
    assert [step.exit_code for step in stack.witness.record(job_id).steps] == [0, 1, 1]


def test_a_repository_that_is_not_there_fails_the_job_at_its_first_step(
    stack: Stack, forge: Forge
) -> None:
    job_id, end = stack.run(grading_job(forge, "nobody"))

    assert (end.state, end.reason) == ("Failed", "container exited with status 128")
    [clone] = stack.steps(job_id)
    assert any("fatal:" in line for line in clone)
