"""What callers with keys of their own may do."""

import logging
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from flask import Blueprint

from app.auth import Caller, caller, needs
from app.factory import create_api
from app.key_file import add_key
from app.keys import Scope, describe, digest_of, new_secret
from app.settings import ApiSettings

JOB = {"name": "job", "steps": [{"image": "alpine"}]}
BASIC = 'Basic realm="Authorization Required"'


class Secrets(dict[str, str]):
    """The keys of the tests, by their names."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def secrets(path) -> Secrets:
    today = datetime.now(UTC).date()
    secrets = Secrets()
    for name, scopes, expires in (
        ("ci", ["submit"], str(today + timedelta(days=2))),
        ("viewer", ["read"], ""),
        ("ops", ["admin"], ""),
        ("gone", ["submit"], str(today)),
    ):
        secrets[name] = new_secret()
        add_key(path, describe(name, digest_of(secrets[name]), scopes, expires=expires))
    return secrets


def api(queue, path, auth_key=""):
    return create_api(queue, ApiSettings(api_keys_file=str(path), auth_key=auth_key))


@pytest.fixture
def client(queue, path, secrets):
    return api(queue, path).test_client()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def submit(client, **options):
    return client.post("/build", json=JOB, **options)


@pytest.mark.parametrize("user", ["ci", "hades"])
def test_a_key_is_the_password_of_its_name_and_of_hades(client, queue, secrets, user):
    assert submit(client, auth=(user, secrets["ci"])).status_code == 200
    assert [job.submitted_by for job in queue.jobs] == ["ci"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_a_bearer_token(client, queue, secrets, scheme):
    headers = {"Authorization": f"{scheme} {secrets['ops']}"}
    assert submit(client, headers=headers).status_code == 200
    assert [job.submitted_by for job in queue.jobs] == ["ops"]


def test_a_client_cannot_say_who_it_is(client, queue, secrets):
    job = {**JOB, "submitted_by": "ops", "SubmittedBy": "ops"}
    client.post("/build", json=job, headers=bearer(secrets["ci"]))
    assert [job.submitted_by for job in queue.jobs] == ["ci"]


def test_a_key_that_is_not_for_it_is_told_which_scope_it_lacks(client, queue, secrets):
    answer = submit(client, auth=("viewer", secrets["viewer"]))
    assert answer.status_code == 403
    assert answer.text == 'Forbidden: this key lacks the scope "submit"'
    assert queue.jobs == []


def refused(answer) -> list[str]:
    assert (answer.status_code, answer.data) == (401, b"")
    return answer.headers.getlist("WWW-Authenticate")


def test_nobody_else_gets_in(client, queue, secrets):
    assert refused(submit(client)) == [BASIC]
    assert refused(submit(client, auth=("hades", ""))) == [BASIC]
    assert refused(submit(client, auth=("viewer", secrets["ci"]))) == [BASIC]
    assert refused(submit(client, auth=("", secrets["ci"]))) == [BASIC]
    assert refused(submit(client, auth=("ci", secrets["ci"][:-1]))) == [BASIC]
    no_user = "Basic " + b64encode(secrets["ci"].encode()).decode()
    assert refused(submit(client, headers={"Authorization": no_user})) == [BASIC]
    assert refused(submit(client, headers={"Authorization": secrets["ci"]})) == [BASIC]
    assert queue.jobs == []


@pytest.mark.parametrize("token", ["", " ", "x", "\xe4"])
def test_a_bearer_who_is_refused_gets_a_challenge_of_his_own_too(client, secrets, token):
    challenge = 'Bearer realm="Authorization Required", error="invalid_token"'
    assert refused(submit(client, headers=bearer(token))) == [BASIC, challenge]


def test_a_key_whose_time_is_over_is_refused(client, secrets, caplog):
    caplog.set_level(logging.INFO)
    assert refused(submit(client, auth=("gone", secrets["gone"]))) == [BASIC]
    assert "gone" in caplog.text


def test_nothing_of_a_key_reaches_a_log(client, path, secrets, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    for name, secret in secrets.items():
        submit(client, auth=(name, secret))
        submit(client, auth=(name, secret[:-1]))
        submit(client, headers=bearer(secret))
        submit(client, headers=bearer(secret[:-1]))
    out, err = capfd.readouterr()
    for secret in secrets.values():
        assert secret[:20] not in caplog.text + out + err
        assert digest_of(secret).hex()[:16] not in caplog.text + out + err


def test_auth_key_and_keys_work_side_by_side(queue, path, secrets):
    client = api(queue, path, auth_key="s3cret").test_client()
    assert submit(client, auth=("hades", "s3cret")).status_code == 200
    assert submit(client, auth=("ci", secrets["ci"])).status_code == 200
    assert refused(submit(client, auth=("ci", "s3cret"))) == [BASIC]
    assert [job.submitted_by for job in queue.jobs] == ["hades", "ci"]


def test_who_needs_no_key_has_no_name(queue):
    client = create_api(queue, ApiSettings()).test_client()
    assert submit(client, headers=bearer("anything")).status_code == 200
    assert [job.submitted_by for job in queue.jobs] == [""]


def test_a_file_without_a_key_admits_nobody(queue, path):
    path.write_text("# none yet\n")
    assert refused(submit(api(queue, path).test_client())) == [BASIC]


@pytest.mark.parametrize(
    ("name", "status"), [("ci", 403), ("viewer", 403), ("ops", 200), ("gone", 401)]
)
def test_a_route_may_need_a_scope_of_its_own(queue, path, secrets, name, status):
    app, blueprint = api(queue, path), Blueprint("cancelling", __name__)

    @blueprint.delete("/x/<number>")
    @needs(Scope.CANCEL)
    def cancel(number: str) -> str:
        return f"{number} {caller().name}"

    app.register_blueprint(blueprint)
    answer = app.test_client().delete("/x/5", headers=bearer(secrets[name]))
    assert answer.status_code == status
    if status == 200:
        assert answer.text == "5 ops"


def test_admin_may_do_everything():
    assert all(Caller(name="a", scopes=frozenset({Scope.ADMIN})).may(scope) for scope in Scope)
    reader = Caller(name="r", scopes=frozenset({Scope.READ}))
    assert [scope for scope in Scope if reader.may(scope)] == [Scope.READ]
