"""What a worker tells of itself, to the others and to probes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest

from brokers.worker_registry import WorkerRegistry, WorkerState, WorkerStatus
from tests.acceptance.processes import free_port, until
from tests.workers.sites import job_of
from workers.health import Health
from workers.reaper import Reaper

STATUS = WorkerStatus(
    name="w",
    host="h",
    pid=1,
    executor="dummy",
    version="1",
    concurrency=2,
    started_at="2026-01-01T00:00:00.000000Z",
    seen_at="2026-01-01T00:00:00.000000Z",
)


def mine(site) -> WorkerStatus | None:
    name = site.process.settings.name
    return next((s for s in WorkerRegistry(site.connection).list() if s.name == name), None)


def test_a_worker_is_known_while_it_lives_with_the_number_of_its_jobs(site) -> None:
    assert mine(site) is None
    worker = site.start()
    until(lambda: mine(site), "it is known")
    assert (mine(site).state, mine(site).busy) == (WorkerState.RUNNING, 0)
    job = job_of("sleep 60")
    site.queue.put(job)
    until(lambda: mine(site).busy == 1, "it is busy")
    site.queue.stop(job.id)
    until(lambda: mine(site).busy == 0, "it is idle")
    worker.stop()
    assert mine(site) is None


def test_a_worker_that_finishes_its_last_job_says_so(site) -> None:
    job = job_of("sleep 60")
    site.queue.put(job)
    worker = site.start()
    site.running(job.id)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    until(lambda: mine(site).state is WorkerState.DRAINING, "it drains")
    site.drain.now()
    stopping.join(30)
    assert not stopping.is_alive()
    assert mine(site) is None


def test_the_status_reads_back_as_it_was_written(connection) -> None:
    registry = WorkerRegistry(connection)
    paused = replace(STATUS, state=WorkerState.PAUSED, reason="no disk", busy=1)
    registry.put(paused)
    assert paused in registry.list()
    assert WorkerStatus.from_dict({**paused.to_dict(), "colour": "blue"}) == paused
    registry.remove("w")
    assert paused not in registry.list()


class Probe:
    """A worker's health server, and what it is told."""

    def __init__(self) -> None:
        self.status = STATUS
        self.connected = True
        self.port = free_port()
        self.health = Health(self.port, lambda: self.status, lambda: self.connected)

    def get(self, path: str) -> tuple[int, Any]:
        client = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            client.close()


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    probe.health.start()
    yield probe
    probe.health.stop()


def test_a_worker_that_takes_jobs_is_ready(probe) -> None:
    assert probe.get("/livez") == (200, {"status": "alive"})
    assert probe.get("/readyz?verbose") == (200, {"status": "ready"})
    assert probe.get("/status") == (200, STATUS.to_dict())
    assert probe.get("/other")[0] == 404


@pytest.mark.parametrize(
    ("fields", "away"),
    [
        ({"state": WorkerState.PAUSED, "reason": "no disk"}, {"executor": "no disk"}),
        ({"state": WorkerState.DRAINING}, {"worker": "it is told to go"}),
    ],
)
def test_a_worker_that_takes_none_is_not_ready_and_says_why(probe, fields, away) -> None:
    probe.status = replace(STATUS, **fields)
    assert probe.get("/readyz") == (503, {"status": "away", "away": [*away], "reasons": away})
    assert probe.get("/livez")[0] == 200


def test_a_worker_without_nats_is_alive_but_not_ready(probe) -> None:
    probe.connected = False
    status, body = probe.get("/readyz")
    assert (status, body["away"]) == (503, ["nats"])
    assert probe.get("/livez")[0] == 200


def test_a_second_worker_on_the_same_port_goes_on_without(probe, caplog) -> None:
    second = Health(probe.port, lambda: STATUS, lambda: True)
    second.start()
    assert "no probes are answered" in caplog.text
    second.stop()
    assert probe.get("/livez")[0] == 200


def test_orphans_are_looked_for_at_once_and_a_failure_does_not_end_that(site, monkeypatch) -> None:
    monkeypatch.setattr("workers.reaper.REAP_SECONDS", 0.01)
    looked = threading.Semaphore(0)

    def look() -> int:
        looked.release()
        raise RuntimeError("a bug")

    monkeypatch.setattr(site.executor, "reap_orphans", look)
    reaper = Reaper(site.executor)
    reaper.start()
    assert all(looked.acquire(timeout=10) for _ in range(3))
    reaper.stop()
