import io
import json
from uuid import UUID

import pytest

from app.factory import create_api
from app.settings import ApiSettings

JOB = {"name": "job", "steps": [{"image": "alpine", "script": "true"}]}
FORM = "application/x-www-form-urlencoded"


def post(client, body: bytes | str, content_type: str | None = "application/json"):
    return client.post("/build", data=body, content_type=content_type)


def test_a_job_is_put_on_the_queue_and_its_id_is_told(client, queue):
    answer = client.post("/build", json=JOB)
    assert answer.status_code == 200
    (job,) = queue.jobs
    assert answer.json == {"job_id": job.id, "message": "Successfully enqueued job"}
    assert UUID(job.id).version == 4
    assert (job.name, job.steps[0].image) == ("job", "alpine")


def test_the_server_numbers_the_jobs_whatever_the_client_says(client, queue):
    given = "11111111-2222-4333-8444-555555555555"
    client.post("/build", json={**JOB, "id": given})
    client.post("/build", json={**JOB, "id": given})
    assert len({given, *(job.id for job in queue.jobs)}) == 3


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.hades+json",
        "text/plain",
        FORM,
        None,
    ],
)
def test_json_is_taken_under_every_type_that_clients_send_it_with(client, queue, content_type):
    assert post(client, json.dumps(JOB), content_type).status_code == 200
    assert len(queue.jobs) == 1


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/xml", "<job/>"),
        ("multipart/form-data", json.dumps(JOB)),
        (FORM, "Name=x"),
        (FORM, ""),
    ],
)
def test_other_types_are_refused_by_their_name(client, queue, content_type, body):
    answer = post(client, body, content_type)
    assert answer.status_code == 400
    expected = f"Invalid JSON body (Content-Type {content_type}: send application/json)"
    assert answer.text == expected
    assert queue.jobs == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'name': 'x'}",
        b'{"name": "x",}',
        b'{"name": "x"} // comment',
        b"nonsense",
        b'{"name": "\xff"}',
        b"\xef\xbb\xbf{}",
        json.dumps(JOB).encode("utf-16"),
        b"\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(14),
)
def test_what_is_not_json_is_refused_as_such(client, queue, body):
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.mimetype == "text/plain"
    assert answer.text.startswith("Invalid JSON body: ")
    assert queue.jobs == []


def test_where_the_json_breaks_is_told(client):
    answer = post(client, '{\n "name": oops}')
    assert answer.text == "Invalid JSON body: Expecting value: line 2 column 10 (char 11)"


def test_more_than_one_json_value_is_refused(client, queue):
    assert post(client, json.dumps(JOB) + "{}").text.startswith("Invalid JSON body: Extra data")
    assert queue.jobs == []


@pytest.mark.parametrize("body", ["null", "[]", '"job"', "1", "true", "NaN", "[{}]"])
def test_json_that_is_no_object_is_refused(client, queue, body):
    assert post(client, body).text == "Invalid JSON body: expected an object"
    assert queue.jobs == []


def test_the_field_that_is_wrong_is_told_in_a_header_too(client):
    answer = client.post("/build", json={**JOB, "steps": [{"image": "a", "memory_limit": "1Ki"}]})
    assert answer.text == "Failed to parse RAM limit (steps[0].memory_limit)"
    assert answer.headers["X-Hades-Field"] == "steps[0].memory_limit"


def test_a_field_with_an_odd_name_breaks_no_header(client):
    answer = client.post("/build", json={**JOB, "metadata": {"a\r\nSet-Cookie: b\ud800": 1}})
    assert answer.status_code == 400
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["X-Hades-Field"].isascii()


@pytest.fixture
def small(queue):
    return create_api(queue, ApiSettings(max_body_bytes=100)).test_client()


def test_a_body_of_the_limit_is_taken(small):
    assert post(small, json.dumps(JOB).ljust(100)).status_code == 200


def test_a_longer_body_is_a_413_that_names_the_limit(small, queue):
    answer = post(small, json.dumps(JOB).ljust(101))
    assert answer.status_code == 413
    assert answer.text == "Request body too large: the limit is 100 bytes"
    assert answer.mimetype == "text/plain"
    assert queue.jobs == []


@pytest.mark.parametrize(("length", "status"), [(99, 200), (101, 413), (100_000, 413)])
def test_a_chunked_body_has_the_same_limit(small, queue, length, status):
    answer = small.post(
        "/build",
        input_stream=io.BytesIO(json.dumps(JOB).ljust(length).encode()),
        environ_overrides={"wsgi.input_terminated": True},
        content_type="application/json",
    )
    assert answer.status_code == status
    assert len(queue.jobs) == (status == 200)
