"""The log manager's routes, over a real reader."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.factory import create_logs
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.log_reader import LogReader
from brokers.nats.connection import NatsConnection
from brokers.records import JobRecord
from executors.job import Job, JobState, LogBatch, LogEntry, OutputStream, Step

TIME = "2026-01-01T00:00:00.000000Z"


class Site:
    """One job, and a log manager that knows of it only by NATS."""

    def __init__(self, connection: NatsConnection) -> None:
        self.job = Job(
            id=str(uuid.uuid4()),
            name="n",
            steps=(Step(id=1, name="clone", image="i"), Step(id=2, image="i")),
        )
        self.store = JobStore(connection, max_age=3600, patience=5)
        self.events = Events(connection, max_age=3600, patience=5)
        self.reader = LogReader(connection, self.store, self.events)
        self.client: FlaskClient = create_logs(self.store, self.reader).test_client()
        self.sequence = 0

    def claim(self) -> JobRecord:
        lease = self.store.claim(self.job, "w")
        assert lease is not None
        self.lease = lease
        return lease.record

    def finish(self, state: JobState, reason: str = "") -> JobRecord:
        return self.store.finish(self.lease, state, reason, ())

    def log(self, step: int, *lines: str, attempt: int = 1) -> None:
        entries = tuple(LogEntry(TIME, line, OutputStream.STDERR) for line in lines)
        batch = LogBatch(
            job_id=self.job.id,
            attempt=attempt,
            step=step,
            container_id=f"c{step}",
            sequence=self.sequence,
            entries=entries,
        )
        self.sequence += 1
        self.events.log(batch)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(f"/jobs/{self.job.id}{path}", **options)

    def slot(self, step: int, *lines: str) -> dict[str, Any]:
        logs = [{"timestamp": TIME, "message": line, "output_stream": "stderr"} for line in lines]
        return {"job_id": self.job.id, "container_id": f"c{step}", "logs": logs}


@pytest.fixture
def site(connection) -> Site:
    return Site(connection)


@pytest.fixture
def gone(own_server) -> Iterator[Site]:
    """Whose NATS is away."""
    connection = NatsConnection(own_server.url)
    site = Site(connection)
    site.store._patience = 0.1
    site.claim()
    site.log(0, "x")
    own_server.kill()
    yield site
    connection.close()


def frames(answer: Any) -> list[dict[str, Any]]:
    """What the stream brought, each frame's fields by their names, `data` decoded."""
    found = []
    for block in answer.text.strip().split("\n\n"):
        fields: dict[str, Any] = dict(line.split(": ", 1) for line in block.split("\n"))
        fields["data"] = json.loads(fields["data"])
        found.append(fields)
    return found


def test_an_unknown_job_has_an_empty_log_and_no_status(site) -> None:
    assert site.get("/logs").json == {"logs": []}
    answer = site.get("/status")
    assert (answer.status_code, answer.json) == (404, {"error": f"job not found: {site.job.id}"})
    assert site.get("/logs/stream").status_code == 404


@pytest.mark.parametrize("job_id", ["*", ">", "a.b", "a%20b", "%0D%0A", "ä"])
def test_no_id_reads_the_logs_of_other_jobs(site, job_id) -> None:
    site.claim()
    site.log(0, "private")
    assert site.client.get(f"/jobs/{job_id}/logs").json == {"logs": []}
    assert site.client.get(f"/jobs/{job_id}/status").status_code == 404
    assert site.client.get(f"/jobs/{job_id}/logs/stream").status_code == 404


def test_a_log_has_one_entry_a_step_in_order(site) -> None:
    site.log(0)
    site.log(1, "b", "c")
    site.log(1, "", "d")
    assert site.get("/logs").json == {"logs": [site.slot(0), site.slot(1, "b", "c", "", "d")]}


def test_the_status_is_the_records(site) -> None:
    site.store.create(JobRecord.of(site.job))
    assert site.get("/status").json == {"status": "Queued"}
    site.claim()
    assert site.get("/status").json == {"status": "Running"}
    site.finish(JobState.FAILED, "x")
    assert site.get("/status").json == {"status": "Failed"}


def test_jobs_are_listed_by_id(site) -> None:
    site.claim()
    assert site.job.id in site.client.get("/jobs").json["jobs"]


def test_a_restart_of_the_log_manager_forgets_nothing(site, nats_server) -> None:
    site.claim()
    site.finish(JobState.SUCCEEDED, "")
    site.log(0, "kept")
    connection = NatsConnection(nats_server.url)
    again = Site(connection)
    again.job = site.job
    for path in ("/logs", "/status"):
        assert again.get(path).json == site.get(path).json
    connection.close()


def test_a_restart_of_nats_forgets_nothing(own_server) -> None:
    connection = NatsConnection(own_server.url)
    site = Site(connection)
    site.claim()
    site.log(0, "kept")
    own_server.kill()
    own_server.start()
    assert site.get("/logs").json == {"logs": [site.slot(0, "kept")]}
    assert site.get("/status").json == {"status": "Running"}
    connection.close()


def test_the_stream_of_a_job_that_is_over_is_its_log_then_its_end(site) -> None:
    site.claim()
    site.log(0, "one")
    site.log(1, "zwö")
    site.finish(JobState.FAILED, "exited")
    answer = site.get("/logs/stream")
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    first, second, last = frames(answer)
    assert first["data"] == {
        "type": "log",
        "job": {"id": site.job.id, "status": ""},
        "log": site.slot(0, "one"),
        "step": {"index": 0, "name": "clone", "attempt": 1},
    }
    assert second["data"]["step"] == {"index": 1, "name": "2", "attempt": 1}
    assert int(first["id"]) < int(second["id"])
    assert last == {
        "data": {
            "type": "job",
            "job": {"id": site.job.id, "status": "Failed", "reason": "exited"},
        }
    }


def test_a_client_that_comes_back_gets_what_it_has_not_seen(site) -> None:
    site.claim()
    site.log(0, "one")
    site.log(0, "two")
    site.finish(JobState.SUCCEEDED, "")
    first, *_ = frames(site.get("/logs/stream"))
    rest = frames(site.get("/logs/stream", headers={"Last-Event-ID": first["id"]}))
    assert [frame["data"]["type"] for frame in rest] == ["log", "job"]
    assert rest[0]["data"]["log"] == site.slot(0, "two")


@pytest.mark.parametrize("nonsense", ["", "x", "-1", "1.5", "²", "9" * 30, "9" * 5000])
def test_nonsense_for_a_last_event_id_means_the_beginning(site, nonsense) -> None:
    site.claim()
    site.log(0, "one")
    site.finish(JobState.SUCCEEDED, "")
    answer = site.get(
        "/logs/stream", headers={"Last-Event-ID": nonsense.encode().decode("latin-1")}
    )
    assert len(frames(answer)) == 2


def test_a_live_stream_brings_lines_as_they_come(site) -> None:
    site.claim()
    answer = site.get("/logs/stream", buffered=False)
    blocks = iter(answer.response)
    assert json.loads(next(blocks).decode()[len("data: ") :])["job"]["status"] == "Running"
    site.log(0, "live")
    assert b'"live"' in next(blocks)
    site.finish(JobState.SUCCEEDED, "")
    assert b'"Succeeded"' in next(blocks)
    assert list(blocks) == []


def test_a_client_that_goes_away_leaves_no_reader(site, connection) -> None:
    site.claim()
    answer = site.get("/logs/stream", buffered=False)
    next(iter(answer.response))
    assert connection._reconnected
    answer.close()
    assert not connection._reconnected


@pytest.mark.parametrize("path", ["/logs", "/status", "/logs/stream"])
def test_while_nats_is_away_the_answer_says_so(gone, monkeypatch, path) -> None:
    monkeypatch.setattr("brokers.log_reader.PATIENCE", 0.1)
    answer = gone.get(path)
    assert answer.status_code == 503
    assert answer.json == {"error": "log service unavailable"}


def test_its_health_is_told(site) -> None:
    assert site.client.get("/health").json == {"status": "ok"}


def test_answers_have_the_security_headers(site) -> None:
    assert site.get("/logs").headers["X-Content-Type-Options"] == "nosniff"
