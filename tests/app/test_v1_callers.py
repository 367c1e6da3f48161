"""What a key may do below `/v1`."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient
from recording_queue import RecordingQueue
from v1_site import assert_problem

from app.factory import create_api
from app.keys import Scope, describe, digest_of, format_line
from app.settings import ApiSettings
from app.v1.scopes import SCOPES

JOB = {"name": "job", "steps": [{"image": "alpine"}]}
ROUTES = {
    "v1.submit": ("POST", "/v1/jobs"),
    "v1.list_jobs": ("GET", "/v1/jobs"),
    "v1.job": ("GET", "/v1/jobs/x"),
    "v1.payload": ("GET", "/v1/jobs/x/payload"),
    "v1.result": ("GET", "/v1/jobs/x/result"),
    "v1.events": ("GET", "/v1/jobs/x/events"),
    "v1.logs": ("GET", "/v1/jobs/x/logs"),
    "v1.cancel": ("POST", "/v1/jobs/x/cancel"),
    "v1.cancel_some": ("POST", "/v1/jobs/cancel"),
    "v1.retry": ("POST", "/v1/jobs/x/retry"),
    "v1.queue": ("GET", "/v1/queue"),
    "v1.workers": ("GET", "/v1/workers"),
}


@pytest.fixture
def keyed(tmp_path: Path) -> FlaskClient:
    """An API with a key for each scope, which is also its password; nothing behind its routes."""
    file = tmp_path / "keys"
    lines = [format_line(describe(f"k-{scope}", digest_of(scope), [scope])) for scope in Scope]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    settings = ApiSettings(api_keys_file=str(file))
    return create_api(RecordingQueue(), settings, services=object()).test_client()  # type: ignore[arg-type]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_route_has_a_scope() -> None:
    assert set(ROUTES) == set(SCOPES)


@pytest.mark.parametrize("endpoint", ROUTES)
def test_a_route_is_for_keys_with_its_scope_alone(keyed, endpoint) -> None:
    method, path = ROUTES[endpoint]
    answer = keyed.open(path, method=method)
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    for scope in Scope:
        answer = keyed.open(path, method=method, headers=bearer(scope))
        if scope in (SCOPES[endpoint], Scope.ADMIN):
            assert answer.status_code in (400, 415, 500)  # as there is nothing behind it
        else:
            problem = assert_problem(answer, 403, "scope-missing")
            assert problem["scope"] == SCOPES[endpoint]
