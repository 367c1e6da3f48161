"""What is refused when there is too much of it, and in which order."""

import io
import json

import pytest

from app.factory import create_api
from app.key_file import add_key
from app.keys import describe, digest_of
from app.settings import ApiSettings
from brokers.shared_limits import SharedLimits
from brokers.token_buckets import Rate
from executors.errors import JobQueueFull

JOB = {"name": "job", "steps": [{"image": "alpine"}]}


class Ticks:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys"
    for name, scope, rate in (("ci", "submit", "2/m"), ("any", "submit", ""), ("ro", "read", "")):
        add_key(path, describe(name, digest_of(name), [scope], rate=rate))
    return path


@pytest.fixture
def limited(queue, ticks, path):
    settings = ApiSettings(
        auth_key="s3cret",
        api_keys_file=str(path),
        rate_limit=Rate.parse("6/m", 3),
        max_body_bytes=1_000,
    )
    return create_api(queue, settings, SharedLimits(None, ticks, ticks)).test_client()


def submit(client, name, body=None):
    secret = "s3cret" if name == "hades" else name
    return client.post("/build", data=body or json.dumps(JOB), auth=(name, secret))


def statuses(client, name, times):
    return [submit(client, name).status_code for _ in range(times)]


def test_each_key_has_its_own_rate_or_the_default(limited):
    assert statuses(limited, "ci", 3) == [200, 200, 429]
    assert statuses(limited, "any", 4) == [200, 200, 200, 429]
    assert statuses(limited, "hades", 4) == [200, 200, 200, 429]


def test_a_refusal_says_what_is_allowed_and_when_to_come_again(limited, queue, ticks):
    statuses(limited, "ci", 2)
    ticks.now += 0.5
    answer = submit(limited, "ci")
    assert answer.status_code == 429
    assert answer.mimetype == "text/plain"
    expected = "Too many requests: 2 jobs a minute are allowed, 2 at once; try again in 30 s"
    assert answer.text == expected
    assert answer.headers["Retry-After"] == "30"
    assert len(queue.jobs) == 2
    ticks.now += 30
    assert submit(limited, "ci").status_code == 200


def test_retry_after_is_a_second_at_least(queue, ticks):
    settings = ApiSettings(rate_limit=Rate.parse("100/s", 1))
    client = create_api(queue, settings, SharedLimits(None, ticks, ticks)).test_client()
    assert client.post("/build", json=JOB).status_code == 200
    answer = client.post("/build", json=JOB)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")


def test_what_is_left_is_told(limited, ticks):
    def told():
        headers = submit(limited, "any").headers
        names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
        return tuple(headers[name] for name in names)

    assert [told() for _ in range(4)] == [
        ("3", "2", "10"),
        ("3", "1", "20"),
        ("3", "0", "30"),
        ("3", "0", "30"),
    ]


def test_nobody_is_limited_unless_it_is_asked_for(client):
    for _ in range(200):
        answer = client.post("/build", json=JOB)
        assert answer.status_code == 200
        assert "RateLimit-Limit" not in answer.headers


def test_all_who_need_no_key_have_one_limit_together(queue, ticks):
    settings = ApiSettings(rate_limit=Rate.parse("2/m"))
    client = create_api(queue, settings, SharedLimits(None, ticks, ticks)).test_client()
    auths = (None, ("a", "1"), ("b", "2"))
    assert [client.post("/build", json=JOB, auth=a).status_code for a in auths] == [200, 200, 429]


def test_a_full_queue_is_a_503_that_says_when_to_come_again(client, queue):
    queue.failure = JobQueueFull("queue jobs holds 5 messages; its limit is 5")
    answer = client.post("/build", json=JOB)
    assert answer.status_code == 503
    assert answer.text == "Service unavailable: the queue is full; try again later"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.mimetype == "text/plain"


def test_refusals_come_in_their_order(limited, queue):
    """401, 403, 413, 429, 400, 503: the first one that applies is the answer."""
    queue.failure = JobQueueFull("full")
    large, broken, good = "x" * 2_000, "nonsense", json.dumps(JOB)
    assert limited.post("/build", data=large, auth=("ci", "wrong")).status_code == 401
    assert submit(limited, "ro", large).status_code == 403
    assert submit(limited, "ci", large).status_code == 413
    assert submit(limited, "ci", broken).status_code == 400
    assert submit(limited, "ci", good).status_code == 503
    assert submit(limited, "ci", large).status_code == 413
    assert submit(limited, "ci", broken).status_code == 429
    assert submit(limited, "ci", good).status_code == 429


def test_a_body_that_is_cut_is_a_413_and_is_not_charged(limited):
    for _ in range(5):
        answer = limited.post(
            "/build",
            input_stream=io.BytesIO(b"x" * 2_000),
            environ_overrides={"wsgi.input_terminated": True},
            auth=("ci", "ci"),
        )
        assert answer.status_code == 413
    assert submit(limited, "ci").status_code == 200
