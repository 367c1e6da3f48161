import pytest

from app.headers import CONTENT_POLICY, SECURITY_HEADERS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ping", 200),
        ("POST", "/build", 400),
        ("GET", "/build", 405),
        ("GET", "/nowhere", 404),
    ],
)
def test_every_answer_carries_the_security_headers(client, method, path, status):
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert SECURITY_HEADERS.items() <= dict(answer.headers).items()
    assert answer.headers["Content-Security-Policy"] == CONTENT_POLICY


def test_so_does_a_refused_stranger(guarded):
    answer = guarded.post("/build")
    assert answer.status_code == 401
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_so_does_the_answer_to_an_unexpected_failure(client, queue):
    queue.failure = ZeroDivisionError()
    answer = client.post("/build", json={"name": "job", "steps": [{"image": "alpine"}]})
    assert answer.status_code == 500
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_pages_below_swagger_carry_no_content_policy(client):
    answer = client.get("/swagger/index.html")
    assert "Content-Security-Policy" not in answer.headers
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_policy_is_the_one_that_clients_know():
    assert CONTENT_POLICY == (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
