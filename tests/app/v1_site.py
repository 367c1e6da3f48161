"""The API with all of `/v1`, over a real NATS; jobs are run by the test itself."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.factory import create_api
from app.settings import ApiSettings
from app.v1.opening import open_services
from brokers.job_store import Lease
from brokers.queue import open_queue
from brokers.records import StepRecord, StepState
from brokers.settings import NatsSettings
from executors.job import Job, JobState
from executors.redaction import Redactor

SECRET = "hunter2"
MASK = "••••••"


class V1Site:
    """One API process."""

    def __init__(self, url: str, directory: Path, **options: Any) -> None:
        """`options` are fields of the API's settings."""
        nats = NatsSettings(url=url)
        settings = ApiSettings(index_dir=directory / "index", waiters=4, **options)
        self.queue = open_queue(nats, Redactor().job)
        self.store = self.queue.store
        self.services, self._writer = open_services(self.queue, nats, settings)
        self._writer.start()
        self.app = create_api(self.queue, settings, services=self.services)
        self.client: FlaskClient = self.app.test_client()
        self.name = f"job-{uuid.uuid4().hex}"
        """Of all jobs of this site: others share the server."""

    def close(self) -> None:
        self._writer.close()
        self.services.index.close()
        self.queue.close()

    def job(self, **fields: Any) -> dict[str, Any]:
        plain = {"name": self.name, "steps": [{"id": 1, "name": "one", "image": "alpine"}]}
        return plain | fields

    def submit(self, **fields: Any) -> str:
        answer = self.client.post("/v1/jobs", json=self.job(**fields))
        assert answer.status_code == 202, answer.text
        return str(answer.json["id"])

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(f"/v1/{path}", **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.client.post(f"/v1/{path}", **options)

    def listed(self, query: str = "") -> list[str]:
        answer = self.get(f"jobs?name={self.name}*&limit=500&{query}")
        assert answer.status_code == 200, answer.text
        assert "X-Hades-Index-Lag" not in answer.headers
        return [job["id"] for job in answer.json["jobs"]]

    def state(self, job_id: str) -> str:
        return str(self.get(f"jobs/{job_id}").json["state"])

    # As a worker

    def claim(self, job_id: str) -> Lease:
        job = Job.from_dict(self.queue.shown(job_id) or {})
        lease = self.store.claim(job, "worker-1")
        assert lease is not None
        return lease

    def run(self, job_id: str, state: JobState = JobState.SUCCEEDED) -> None:
        lease = self.claim(job_id)
        steps = [_ended(step, state) for step in lease.record.steps]
        self.store.finish(lease, state, "", steps)


def _ended(step: StepRecord, state: JobState) -> StepRecord:
    failed = state is JobState.FAILED
    return StepRecord(
        id=step.id,
        name=step.name,
        image=step.image,
        state=StepState.FAILED if failed else StepState.SUCCEEDED,
        exit_code=int(failed),
        tries=1,
        started_at="2026-01-01T00:00:00.000000Z",
        finished_at="2026-01-01T00:00:01.500000Z",
    )


def assert_problem(answer: TestResponse, status: int, kind: str = "") -> dict[str, Any]:
    """The problem that the answer is."""
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    problem: dict[str, Any] = json.loads(answer.text)
    assert problem["status"] == status
    assert problem["type"] == (f"urn:hades:problem:{kind}" if kind else "about:blank")
    assert problem["title"]
    return problem
