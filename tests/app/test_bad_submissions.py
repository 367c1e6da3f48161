"""Each of these is refused with its field's name, and nothing is put on the queue."""

import json

import pytest

STEP = {"image": "alpine"}
BIG = "x" * (128 * 1024)


def step(**fields):
    return {"steps": [STEP, {**STEP, **fields}]}


JOB_LEVEL = {
    "name missing": ({"name": None}, "name"),
    "name empty": ({"name": ""}, "name"),
    "name blank": ({"name": " \t"}, "name"),
    "name a number": ({"name": 7}, "name"),
    "name with NUL": ({"name": "a\0b"}, "name"),
    "name of 128 KiB": ({"name": BIG}, "name"),
    "name with half a character": ({"name": "\ud83d"}, "name"),
    "priority a string": ({"priority": "3"}, "priority"),
    "priority a float": ({"priority": 1.0}, "priority"),
    "priority a boolean": ({"priority": True}, "priority"),
    "priority infinite": ({"priority": float("inf")}, "priority"),
    "priority not a number": ({"priority": float("nan")}, "priority"),
    "priority of 65 bits": ({"priority": 2**63}, "priority"),
    "priority of 65 bits below zero": ({"priority": -(2**63) - 1}, "priority"),
    "id empty": ({"id": ""}, "id"),
    "id no UUID": ({"id": "job-1"}, "id"),
    "id a number": ({"id": 1}, "id"),
    "timestamp empty": ({"timestamp": ""}, "timestamp"),
    "timestamp a day": ({"timestamp": "2026-01-01"}, "timestamp"),
    "timestamp a number": ({"timestamp": 1}, "timestamp"),
    "timestamp in month 13": ({"timestamp": "2026-13-01T00:00:00Z"}, "timestamp"),
    "metadata a list": ({"metadata": ["A=1"]}, "metadata"),
    "metadata of numbers": ({"metadata": {"A": 1}}, "metadata.A"),
    "metadata of objects": ({"metadata": {"A": {}}}, "metadata.A"),
    "metadata without a name": ({"metadata": {"": "x"}}, 'metadata[""]'),
    "metadata name with =": ({"metadata": {"A=B": "x"}}, 'metadata["A=B"]'),
    "metadata name with NUL": ({"metadata": {"A\0": "x"}}, 'metadata["A\\u0000"]'),
    "metadata value with NUL": ({"metadata": {"A": "\0"}}, "metadata.A"),
    "metadata value of 128 KiB": ({"metadata": {"A": BIG}}, "metadata.A"),
    "metadata with half a character": ({"metadata": {"A": "\udc00"}}, "metadata.A"),
    "steps missing": ({"steps": None}, "steps"),
    "steps empty": ({"steps": []}, "steps"),
    "steps an object": ({"steps": {}}, "steps"),
    "steps of strings": ({"steps": ["alpine"]}, "steps[0]"),
    "101 steps": ({"steps": [STEP] * 101}, "steps"),
    "10,000 steps": ({"steps": [STEP] * 10_000}, "steps"),
    "callback relative": ({"callback_url": "/x"}, "callback_url"),
    "callback a number": ({"callback_url": 1}, "callback_url"),
    "timeout negative": ({"timeout_seconds": -1}, "timeout_seconds"),
    "timeout of 300 years": ({"timeout_seconds": 9223372037}, "timeout_seconds"),
    "timeout a float": ({"timeout_seconds": 1.5}, "timeout_seconds"),
}

STEP_LEVEL = {
    "image missing": ({"image": None}, "image"),
    "image blank": ({"image": "  "}, "image"),
    "image with NUL": ({"image": "a\0"}, "image"),
    "id a string": ({"id": "1"}, "id"),
    "name with NUL": ({"name": "\0"}, "name"),
    "script a list": ({"script": ["true"]}, "script"),
    "script with NUL": ({"script": "echo \0"}, "script"),
    "script of 128 KiB": ({"script": BIG}, "script"),
    "script with half a character": ({"script": "echo \ud83d"}, "script"),
    "continue_on_error a string": ({"continue_on_error": "true"}, "continue_on_error"),
    "ContinueOnError a number": ({"ContinueOnError": 1}, "continue_on_error"),
    "metadata of booleans": ({"metadata": {"A": True}}, "metadata.A"),
    "metadata name with =": ({"metadata": {"A=B": "x"}}, 'metadata["A=B"]'),
    "cpu_limit negative": ({"cpu_limit": -1}, "cpu_limit"),
    "cpu_limit a float": ({"cpu_limit": 0.5}, "cpu_limit"),
    "cpu_limit beyond counting": ({"cpu_limit": 9223372037}, "cpu_limit"),
    "memory_limit of another unit": ({"memory_limit": "512Mi"}, "memory_limit"),
    "memory_limit without a unit": ({"memory_limit": "1024"}, "memory_limit"),
    "memory_limit a number": ({"memory_limit": 1024}, "memory_limit"),
    "memory_limit beyond counting": ({"memory_limit": "17179869184G"}, "memory_limit"),
    "memory_swap of another unit": ({"memory_limit": "1g", "memory_swap": "1k"}, "memory_swap"),
    "memory_swap alone": ({"memory_swap": "1g"}, "memory_swap"),
    "memory_swap too small": ({"memory_limit": "2g", "memory_swap": "1g"}, "memory_swap"),
    "pids_limit negative": ({"pids_limit": -1}, "pids_limit"),
    "pids_limit a string": ({"pids_limit": "10"}, "pids_limit"),
    "network of the host": ({"network": "host"}, "network"),
    "network without sense": ({"network": "-x"}, "network"),
    "network of another container": ({"network": "container:x"}, "network"),
}

CASES = {
    **JOB_LEVEL,
    **{
        f"step: {case}": (step(**fields), f"steps[1].{field}")
        for case, (fields, field) in STEP_LEVEL.items()
    },
}


@pytest.mark.parametrize(("fields", "field"), CASES.values(), ids=CASES)
def test_a_malformed_submission_is_refused_with_its_field(client, queue, fields, field):
    body = json.dumps({"name": "job", "steps": [STEP], **fields})
    answer = client.post("/build", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.mimetype == "text/plain"
    assert field in answer.text
    assert answer.headers["X-Hades-Field"] == field
    assert queue.jobs == []


def test_a_number_of_5000_digits_is_refused_with_its_field(client, queue):
    answer = client.post("/build", data='{"priority": ' + "9" * 5000 + "}")
    assert answer.text == "Invalid JSON body: priority must be a whole number"
    assert queue.jobs == []


@pytest.mark.parametrize("field", ["name", "script"])
def test_a_body_beyond_the_limit_is_refused_as_a_whole(client, queue, field):
    answer = client.post("/build", json={"name": "job", "steps": [STEP], field: "x" * 9 * 2**20})
    assert answer.status_code == 413
    assert "Request body" in answer.text
    assert queue.jobs == []
