"""Whether a process is there, and whether it can do its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.factory import create_api, create_logs
from app.readiness import FRESH_SECONDS, PATIENCE_SECONDS, Readiness, readiness_blueprint
from app.settings import ApiSettings
from brokers.nats.connection import NatsConnection
from brokers.reachable import NatsProbe
from tests.acceptance.processes import until


def client_of(**probes) -> FlaskClient:
    app = Flask("ready")
    app.register_blueprint(readiness_blueprint(Readiness(probes)))
    return app.test_client()


@pytest.fixture
def nats(own_server) -> Iterator[NatsConnection]:
    connection = NatsConnection(own_server.url)
    yield connection
    connection.close()


def test_a_process_is_ready_as_long_as_nats_answers(nats, own_server) -> None:
    client = client_of(nats=NatsProbe(nats))
    assert (client.get("/readyz").status_code, client.get("/readyz").json) == (
        200,
        {"status": "ready"},
    )
    own_server.kill()
    until(lambda: client.get("/readyz").status_code == 503, "the process is not ready")
    assert client.get("/readyz").json == {"status": "away", "away": ["nats"]}
    assert client.get("/livez").json == {"status": "alive"}
    own_server.start()
    until(lambda: client.get("/readyz").status_code == 200, "the process is ready again")


def test_an_answer_does_not_wait_for_what_hangs() -> None:
    hanging = threading.Event()
    client = client_of(nats=hanging.wait, disk=lambda: None)
    begun = time.monotonic()
    for _ in range(20):
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json["away"]) == (503, ["nats"])
    assert time.monotonic() - begun < 5 * PATIENCE_SECONDS
    hanging.set()


def test_many_probes_ask_once() -> None:
    asked = []
    client = client_of(nats=lambda: asked.append(1))
    begun = time.monotonic()
    for _ in range(50):
        assert client.get("/readyz").status_code == 200
    assert len(asked) <= 1 + (time.monotonic() - begun) / FRESH_SECONDS


def test_what_is_away_is_named_without_why() -> None:
    def fail() -> None:
        raise OSError("at 10.0.0.7")

    answer = client_of(nats=fail).get("/readyz")
    assert answer.json == {"status": "away", "away": ["nats"]}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_api_and_log_manager_answer_anybody(queue, path) -> None:
    for app in (create_api(queue, ApiSettings(auth_key="k")), create_logs(None, None)):
        assert app.test_client().get(path).status_code == 200
