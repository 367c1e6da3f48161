from base64 import b64encode

import pytest

from app.factory import create_api
from app.settings import ApiSettings

JOB = {"name": "job", "steps": [{"image": "alpine"}]}


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class Unreadable:
    """A body that must not be read."""

    def read(self, *_):
        raise AssertionError("the body was read")


def test_without_a_key_anybody_may_submit(client, queue):
    assert client.post("/build", json=JOB).status_code == 200
    assert len(queue.jobs) == 1


def test_who_knows_the_key_may_submit(guarded, queue):
    answer = guarded.post("/build", json=JOB, auth=("hades", "s3cret"))
    assert answer.status_code == 200
    assert len(queue.jobs) == 1


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic aGFkZXM",
        "Basic /////w==",
        "Basic h\xe4des",
        "Bearer s3cret",
        "Bearer " + basic("hades", "s3cret").split()[1],
        basic("hades", "s3cret") + ", " + basic("hades", "s3cret"),
        basic("hades", ""),
        basic("hades", "wrong"),
        basic("hades", "s3cret "),
        basic("root", "s3cret"),
        basic("", "s3cret"),
        'Digest username="hades"',
    ],
)
def test_anybody_else_gets_an_empty_401_with_a_challenge(guarded, queue, header):
    headers = {} if header is None else {"Authorization": header}
    answer = guarded.post("/build", json=JOB, headers=headers)
    assert answer.status_code == 401
    assert answer.data == b""
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Authorization Required"'
    assert queue.jobs == []


def test_a_key_may_hold_any_characters(queue):
    key = "a:b ü€"
    client = create_api(queue, ApiSettings(auth_key=key)).test_client()
    headers = {"Authorization": basic("hades", key)}
    assert client.post("/build", json=JOB, headers=headers).status_code == 200


def test_the_body_of_a_stranger_is_not_read(guarded):
    answer = guarded.post("/build", environ_overrides={"wsgi.input": Unreadable()})
    assert answer.status_code == 401


def test_a_stranger_does_not_learn_that_the_body_is_too_large(guarded):
    assert guarded.post("/build", data=b"x" * 2_000_000).status_code == 401


def test_ping_needs_no_key(guarded):
    assert guarded.get("/ping").status_code == 200
