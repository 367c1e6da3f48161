"""Bad submissions, over HTTP to the real API: refused with what is wrong, and nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.stack import Stack

STEP = {"image": "alpine:latest", "script": "true"}
GOOD = {"name": "job", "steps": [STEP]}
BIG = "x" * (128 * 1024)
HUGE = "x" * 9 * 1024 * 1024


def step(**fields: Any) -> dict[str, Any]:
    return {"steps": [STEP, {**STEP, **fields}]}


FIELDS: dict[str, dict[str, Any]] = {
    "name": {"name": None},
    "priority": {"priority": "3"},
    "id": {"id": "job-1"},
    "timestamp": {"timestamp": "yesterday"},
    "metadata.A": {"metadata": {"A": 1}},
    'metadata["A=B"]': {"metadata": {"A=B": "x"}},
    "callback_url": {"callback_url": "/relative"},
    "timeout_seconds": {"timeout_seconds": -1},
    "steps": {"steps": []},
    "steps[0]": {"steps": ["alpine"]},
    "steps[1].image": step(image=None),
    "steps[1].id": step(id="one"),
    "steps[1].name": step(name="\0"),
    "steps[1].script": step(script=BIG),
    "steps[1].continue_on_error": step(continue_on_error="yes"),
    "steps[1].metadata.B": step(metadata={"B": True}),
    "steps[1].cpu_limit": step(cpu_limit=0.5),
    "steps[1].memory_limit": step(memory_limit="512Mi"),
    "steps[1].memory_swap": step(memory_swap="1g"),
    "steps[1].pids_limit": step(pids_limit=-1),
    "steps[1].network": step(network="host"),
}

BODIES = {
    "no body": b"",
    "half of a job": b'{"name": "job", "steps": [',
    "not UTF-8": b'{"name": "\xff"}',
    "nested without end": b"[" * 100_000,
    "two jobs": b'{"name": "a"} {"name": "b"}',
    "a list": b"[]",
    "a form": b"name=job",
    "a number without end": b'{"name": "job", "priority": ' + b"9" * 5000 + b"}",
}


@pytest.fixture
def untouched(office: Stack) -> Iterator[None]:
    """Nothing is stored meanwhile."""
    office.run(GOOD)  # so that every stream is there
    before = office.witness.counts()
    yield
    assert office.witness.counts() == before


@pytest.fixture(scope="module", autouse=True)
def someone_works(office: Stack) -> None:
    office.start_worker()


def post(office: Stack, body: bytes, **headers: str) -> httpx.Response:
    headers = {"Content-Type": "application/json", **headers}
    return httpx.post(f"{office.api_url}/build", content=body, headers=headers, timeout=30.0)


@pytest.mark.usefixtures("untouched")
def test_each_bad_field_is_refused_by_its_name(office: Stack) -> None:
    for field, fields in FIELDS.items():
        answer = post(office, json.dumps({**GOOD, **fields}).encode())
        assert answer.status_code == 400, field
        assert answer.headers["X-Hades-Field"] == field
        assert field in answer.text


@pytest.mark.usefixtures("untouched")
def test_each_bad_body_is_refused_with_a_reason(office: Stack) -> None:
    for what, body in BODIES.items():
        answer = post(office, body)
        assert answer.status_code == 400, what
        assert answer.text, what


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("field", ["name", "metadata", "steps"])
def test_a_body_beyond_the_limit_is_too_large(office: Stack, field: str) -> None:
    huge = {"name": HUGE, "metadata": {"A": HUGE}, "steps": [{**STEP, "script": HUGE}]}
    answer = post(office, json.dumps({**GOOD, field: huge[field]}).encode())

    assert answer.status_code == 413
    assert "too large" in answer.text.lower() or "larger" in answer.text.lower()


@pytest.mark.usefixtures("untouched")
def test_xml_is_refused_by_its_type(office: Stack) -> None:
    answer = post(office, b"<job/>", **{"Content-Type": "application/xml"})

    assert answer.status_code == 400
    assert "application/xml" in answer.text


def test_a_good_job_is_accepted_after_all_that(office: Stack) -> None:
    _, end = office.run({**GOOD, "unknown": [1, {}]})
    assert end.state == "Succeeded"
