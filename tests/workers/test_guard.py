"""A worker on a machine that can run no job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from brokers.worker_registry import WorkerRegistry, WorkerState, WorkerStatus
from executors.base import Workspace
from executors.errors import ExecutorUnavailable
from executors.job import Job, JobState
from tests.acceptance.processes import until
from tests.workers.sites import MAX_ATTEMPTS, job_of
from workers import guard


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    monkeypatch.setattr(guard, "CHECK_SECONDS", 0.2)


class Broken:
    """An executor's machine, which somebody mends."""

    def __init__(self, site, monkeypatch) -> None:
        self.why = "no daemon"
        self.asked = threading.Event()
        self.opened: list[int] = []
        self._open = site.executor.open
        monkeypatch.setattr(site.executor, "check", self.check)
        monkeypatch.setattr(site.executor, "open", self.open)

    def check(self) -> None:
        self.asked.set()
        if self.why:
            raise ExecutorUnavailable(self.why)

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        self.opened.append(attempt)
        if self.why:
            raise ExecutorUnavailable(self.why)
        with self._open(job, attempt) as workspace:
            yield workspace


def status_of(site) -> WorkerStatus | None:
    found = WorkerRegistry(site.connection).list()
    return next((status for status in found if status.name == site.process.settings.name), None)


def test_a_worker_on_a_broken_machine_begins_with_a_pause_and_says_why(site, monkeypatch) -> None:
    broken = Broken(site, monkeypatch)
    job = job_of("echo at last")
    site.queue.put(job)
    site.start()
    until(lambda: (status := status_of(site)) and status.state is WorkerState.PAUSED, "it pauses")
    status = status_of(site)
    assert status is not None
    assert (status.reason, status.busy, status.executor) == ("no daemon", 0, "dummy")
    broken.asked.clear()
    assert broken.asked.wait(10)
    record = site.store.get(job.id)
    assert (record.state, record.attempt) == (JobState.QUEUED, 0)
    broken.why = ""
    assert site.ended(job.id).attempt == 1
    until(lambda: status_of(site).state is WorkerState.RUNNING, "it says that it runs")
    assert broken.opened == [1]


def test_a_machine_that_breaks_costs_no_job_an_attempt_that_counts(site, monkeypatch) -> None:
    broken = Broken(site, monkeypatch)
    broken.why = ""
    site.start()
    assert site.run("echo before").state is JobState.SUCCEEDED
    broken.why = "disk full"
    jobs = [job_of("echo after") for _ in range(5)]
    for job in jobs:
        site.queue.put(job)
    until(lambda: site.guard.reason == "disk full", "it pauses")
    broken.asked.clear()
    assert broken.asked.wait(10)
    broken.why = ""
    records = [site.ended(job.id) for job in jobs]
    assert {record.state for record in records} == {JobState.SUCCEEDED}
    assert {(record.errors, record.lost) for record in records} == {(0, 0)}


def test_a_job_that_no_machine_can_run_is_not_tried_for_ever(site, monkeypatch) -> None:
    broken = Broken(site, monkeypatch)
    monkeypatch.setattr(site.executor, "check", lambda: None)
    record = site.run("echo never")
    assert (record.state, record.errors) == (JobState.FAILED, MAX_ATTEMPTS - 1)
    assert record.reason == "the job could not be run: no daemon (attempt 3)"
    assert broken.opened == [1, 2, 3]
    assert site.guard.reason == ""


def test_what_runs_when_the_machine_breaks_goes_on(site, monkeypatch) -> None:
    broken = Broken(site, monkeypatch)
    broken.why = ""
    job = job_of("sleep 1\necho through")
    site.queue.put(job)
    site.start()
    site.running(job.id)
    broken.why = "no daemon"
    until(lambda: site.guard.reason, "it pauses")
    assert site.ended(job.id).state is JobState.SUCCEEDED
    site.idle()
