"""What becomes of a job when its machine, its message or NATS fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dramatiq import Message

from brokers import subjects
from brokers.job_store import JobStore
from brokers.nats import DeadLetter
from brokers.nats.errors import JetStreamError
from brokers.payloads import whole
from brokers.queue import message_of
from brokers.records import StepState
from executors.base import Workspace
from executors.dummy import DummyWorkspace
from executors.errors import InfrastructureError
from executors.job import Job, JobState
from tests.acceptance.processes import until
from tests.workers.sites import MAX_ATTEMPTS, Site, job_of


def dead_letters(site) -> list[DeadLetter]:
    return site.broker.get_dead_letters(subjects.QUEUE)


def fails_to_open(site, monkeypatch, times: int, error: Exception) -> list[int]:
    """The executor cannot open a workspace so many times; returns the attempts that it saw."""
    opened, attempts = site.executor.open, []

    @contextmanager
    def open_or_fail(job: Job, attempt: int) -> Iterator[Workspace]:
        attempts.append(attempt)
        if len(attempts) <= times:
            raise error
        with opened(job, attempt) as workspace:
            yield workspace

    monkeypatch.setattr(site.executor, "open", open_or_fail)
    return attempts


def test_a_machine_that_fails_while_a_job_runs_gets_further_attempts_then_the_job_fails(site):
    record = site.run("echo here\nfail no disk")
    site.idle()
    assert (record.state, record.attempt) == (JobState.FAILED, MAX_ATTEMPTS)
    assert record.reason == "the job could not be run: no disk (attempt 3)"
    assert site.states(record.id) == [*["Queued", "Running"] * MAX_ATTEMPTS, "Failed"]
    assert site.lines(record.id) == ["here"]
    assert dead_letters(site) == []


@pytest.mark.parametrize(
    "error",
    [InfrastructureError("no disk"), RuntimeError("a bug"), JetStreamError("no space")],
    ids=lambda error: type(error).__name__,
)
def test_a_job_whose_workspace_cannot_be_opened_is_tried_again(site, monkeypatch, error) -> None:
    attempts = fails_to_open(site, monkeypatch, 2, error)
    record = site.run("echo at last")
    site.idle()
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 3)
    assert attempts == [1, 2, 3]
    assert site.lines(record.id) == ["at last"]


def test_while_a_job_waits_for_its_next_attempt_its_record_says_so(site, monkeypatch) -> None:
    monkeypatch.setattr("workers.middleware.RETRY_SECONDS", 30)
    fails_to_open(site, monkeypatch, 1, InfrastructureError("no disk"))
    job = job_of("true")
    site.queue.put(job)
    site.start()
    items = site.reader.follow(job.id)
    given_back = next(r for r in items if r and r.state is JobState.QUEUED and r.attempt == 1)
    assert (given_back.worker, given_back.started_at) == ("", "")
    assert site.broker.get_queue_stats()[subjects.QUEUE].unfinished == 1


@pytest.mark.parametrize("method", ["claim", "started"])
def test_a_record_that_cannot_be_changed_leaves_the_job_on_the_queue(site, monkeypatch, method):
    owner, name = (site.store, "claim") if method == "claim" else (site.runner, "started")
    works, failures = getattr(owner, name), []

    def fail_twice(*args: Any, **options: Any) -> Any:
        if len(failures) < 2:
            failures.append(1)
            raise JetStreamError("insufficient resources")
        return works(*args, **options)

    monkeypatch.setattr(owner, name, fail_twice)
    record = site.run("echo at last")
    assert record.state is JobState.SUCCEEDED
    assert site.lines(record.id) == ["at last"]


def test_an_end_that_cannot_be_written_is_tried_again(site, monkeypatch) -> None:
    works, failures = site.store.finish, []

    def fail_once(*args: Any) -> Any:
        if not failures:
            failures.append(1)
            raise JetStreamError("insufficient resources")
        return works(*args)

    monkeypatch.setattr(site.store, "finish", fail_once)
    record = site.run("true")
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 2)


def test_a_workspace_that_cannot_be_removed_does_not_change_the_outcome(site, monkeypatch):
    opened = site.executor.open

    @contextmanager
    def open_and_leave_dirty(job: Job, attempt: int) -> Iterator[Workspace]:
        with opened(job, attempt) as workspace:
            yield workspace
        raise RuntimeError("the directory is busy")

    monkeypatch.setattr(site.executor, "open", open_and_leave_dirty)
    record = site.run("true")
    site.idle()
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)


def test_workspaces_are_gone_when_their_jobs_are(site) -> None:
    for script in ("true", "false", "fail no disk", "refuse this"):
        site.run(script)
    site.idle()
    assert site.executor.workspaces == {}


def test_a_job_that_has_ended_is_not_run_again(site) -> None:
    record = site.run("echo once")
    site.idle()
    site.broker.enqueue(message_of(job_of("echo twice", id=record.id)))
    site.idle()
    assert site.store.get(record.id) == record
    assert site.lines(record.id) == ["once"]
    assert site.states(record.id) == ["Queued", "Running", "Succeeded"]


def test_an_end_that_was_written_but_not_told_is_told_with_the_next_delivery(site) -> None:
    job = job_of("true")
    lease = site.store.claim(job, "a worker that died then")
    assert lease is not None
    record = site.store.finish(lease, JobState.SUCCEEDED, "", ())
    site.broker.enqueue(message_of(job))
    site.start()
    site.idle()
    assert site.states(job.id) == ["Succeeded"]
    assert len(site.stored(subjects.RESULT_STREAM, subjects.results(job.id))) == 1
    assert site.store.get(job.id) == record


def test_a_job_whose_workers_were_all_lost_fails_without_another_try(site) -> None:
    job = job_of("echo never")
    for _ in range(MAX_ATTEMPTS):
        assert site.store.claim(job, "a worker that died then")
    site.broker.enqueue(message_of(job))
    site.start()
    record = site.ended(job.id)
    site.idle()
    assert (record.state, record.reason) == (JobState.FAILED, "worker lost 3 times")
    assert dead_letters(site) == []
    assert site.lines(job.id) == []


def test_a_job_that_another_worker_runs_and_says_so_is_left_to_it(site) -> None:
    """The queue may deliver a message again although its worker is well: NATS was away."""
    job = job_of("echo slow\nsleep 2")
    site.queue.put(job)
    site.start()
    site.running(job.id)
    with Site(site.url, namespace=site.namespace) as other:
        other.start()
        other.broker.enqueue(message_of(job))
        record = site.ended(job.id)
        site.idle()
    assert (record.state, record.attempt, record.lost) == (JobState.SUCCEEDED, 1, 0)
    assert site.states(job.id) == ["Queued", "Running", "Succeeded"]


def test_a_stopped_job_is_killed_at_once(site) -> None:
    job = job_of("echo begun\nsleep 60", "echo never")
    site.queue.put(job)
    site.start()
    site.running(job.id)
    record = site.queue.stop(job.id, "not wanted any more")
    site.idle()
    assert site.store.get(job.id) == record
    assert (record.state, record.reason) == (JobState.STOPPED, "not wanted any more")
    assert [step.state for step in record.steps] == [StepState.STOPPED, StepState.SKIPPED]
    assert site.executor.workspaces == {}
    assert site.states(job.id) == ["Queued", "Running", "Stopped"]
    assert site.lines(job.id) == ["begun", "hades: stopped"]
    assert site.run("true").state is JobState.SUCCEEDED


def test_a_worker_that_is_told_to_hand_back_does_so_uncounted(site) -> None:
    job = job_of("sleep 60")
    site.queue.put(job)
    site.start()
    site.running(job.id)
    site.drain.now()
    handed_back = site.until(job.id, JobState.QUEUED)
    assert (handed_back.attempt, handed_back.lost, handed_back.errors) == (1, 0, 0)
    assert site.executor.workspaces == {}


def test_what_was_stored_beside_the_queue_is_gone_with_the_job(site) -> None:
    record = site.run("# " + "x" * 1_000_000 + "\necho large")
    site.idle()
    assert record.state is JobState.SUCCEEDED
    assert site.lines(record.id)[-1] == "large"
    assert site.payloads.get(whole(record.id)) is None


def test_a_message_without_a_job_becomes_a_dead_letter_at_once(site) -> None:
    bad: Message[Any] = Message(
        queue_name=subjects.QUEUE, actor_name=subjects.ACTOR, args=(7,), kwargs={}, options={}
    )
    site.broker.enqueue(bad)
    site.start()
    site.idle()
    [letter] = dead_letters(site)
    assert "the message carries no job" in letter.reason
    assert site.run("true").state is JobState.SUCCEEDED


def test_an_attempt_that_another_has_taken_over_is_killed_and_keeps_its_message(site) -> None:
    job = job_of("echo slow\nsleep 60")
    site.queue.put(job)
    site.start()
    site.running(job.id)
    taken_over = site.store.claim(job, "another worker")
    assert taken_over is not None
    site.control.hint(job.id)
    while site.broker.held:  # the first attempt has let go of the message
        threading.Event().wait(0.01)
    assert site.store.get(job.id) == taken_over.record
    assert site.states(job.id) == ["Queued", "Running"]
    # the other worker is dead: the message comes again, since nobody has acknowledged it
    again = site.until(job.id, JobState.RUNNING, attempt=3)
    assert again.lost == 2
    site.queue.stop(job.id)
    site.idle()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_job_that_runs_while_nats_restarts_ends_once_with_its_whole_log(
    own_site, own_server, way
) -> None:
    lines = [str(number) for number in range(40)]
    script = "\n".join(f"echo {line}\nsleep 0.05" for line in lines)
    job = job_of(script)
    own_site.queue.put(job)
    own_site.start(threads=2)
    next(item for item in own_site.reader.follow(job.id) if getattr(item, "step", None) == 0)
    getattr(own_server, way)()
    own_server.start()
    record = own_site.ended(job.id)
    own_site.idle()
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1)
    assert own_site.lines(job.id) == lines
    assert own_site.states(job.id) == ["Queued", "Running", "Succeeded"]


def test_a_job_that_fails_over_a_long_outage_is_not_lost(own_site, own_server, monkeypatch):
    """The record, then the message: each waits until NATS is back."""
    monkeypatch.setattr("workers.middleware.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("brokers.nats.broker.ENQUEUE_PATIENCE", 0.1)
    opened = own_site.executor.open
    away = threading.Event()

    @contextmanager
    def open_once_nats_is_gone(job: Job, attempt: int) -> Iterator[Workspace]:
        if attempt == 1:
            own_server.kill()
            away.set()
            raise InfrastructureError("everything breaks at once")
        with opened(job, attempt) as workspace:
            yield workspace

    monkeypatch.setattr(own_site.executor, "open", open_once_nats_is_gone)
    job = job_of("echo at last")
    own_site.queue.put(job)
    own_site.start()
    assert away.wait(30)
    threading.Event().wait(1)  # longer than anybody's patience but the job's
    own_server.start()
    record = own_site.ended(job.id)
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 2)


def test_a_worker_that_lost_the_job_while_its_image_came_runs_nothing_of_it(site, monkeypatch):
    job = job_of("echo too late")

    def prepare_for_long(workspace, step, sink, timeout) -> None:
        [running] = site.process.attempts.all()
        site.store.claim(job, "another")
        running.lease.held_at = 0.0

    monkeypatch.setattr(DummyWorkspace, "prepare", prepare_for_long)
    site.queue.put(job)
    site.start()
    site.until(job.id, JobState.RUNNING, attempt=2)
    until(lambda: not site.process.attempts.all(), "the first attempt is over")

    assert site.lines(job.id) == []
    assert site.store.get(job.id).worker == "another"


def test_a_worker_that_lost_the_job_as_it_claimed_it_does_not_say_that_it_runs(site, monkeypatch):
    job = job_of("echo too late")
    claim = JobStore.claim

    def claim_and_stand_still(store, *args, **kwargs):
        lease = claim(store, *args, **kwargs)
        if lease is not None and lease.attempt == 1:
            claim(store, job, "another")
            lease.held_at = 0.0
        return lease

    monkeypatch.setattr(JobStore, "claim", claim_and_stand_still)
    site.queue.put(job)
    site.start()
    assert site.until(job.id, JobState.RUNNING, attempt=2).worker == "another"
    assert site.until(job.id, JobState.SUCCEEDED).attempt == 3
    assert site.states(job.id) == ["Queued", "Running", "Succeeded"]
