"""Jobs that are retried while something of their first try is still under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from brokers.nats.errors import JetStreamError
from brokers.payloads import whole
from brokers.queue import message_of
from executors.base import Workspace
from executors.errors import QueueUnavailable
from executors.job import Job, JobState
from tests.workers.sites import job_of

LARGE = "# " + "x" * 1_000_000 + "\n"


def fail_once(site, job: Job) -> None:
    """As a worker does that dies before its message is acknowledged."""
    record = site.queue.put(job)
    lease = site.store.claim(job, "a worker that died then", queue_seq=record.queue_seq)
    assert lease is not None
    site.store.finish(lease, JobState.FAILED, "it was nothing", lease.record.steps)


def test_the_message_of_the_first_try_is_dropped_once_there_is_another(site) -> None:
    job = job_of("echo again")
    fail_once(site, job)
    retried = site.queue.retry(job)
    assert retried is not None
    site.start()
    record = site.ended(job.id)
    site.idle()
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 2)
    assert record.queue_seq == retried.queue_seq
    assert site.lines(job.id) == ["again"]


def test_a_message_of_the_first_try_without_its_payload_does_no_harm(site) -> None:
    job = job_of(LARGE + "echo again")
    fail_once(site, job)
    site.payloads.delete(whole(job.id))
    assert site.queue.retry(job)
    site.start()
    record = site.ended(job.id)
    site.idle()
    assert (record.state, record.reason) == (JobState.SUCCEEDED, "")


def test_the_end_of_the_first_try_leaves_the_payload_of_the_second(site, monkeypatch) -> None:
    job = job_of(LARGE + "echo here\nfalse")
    opened, may_leave = site.executor.open, threading.Event()

    @contextmanager
    def open_and_linger(job: Job, attempt: int) -> Iterator[Workspace]:
        with opened(job, attempt) as workspace:
            yield workspace
        assert may_leave.wait(30)

    monkeypatch.setattr(site.executor, "open", open_and_linger)
    site.queue.put(job)
    site.start()
    assert site.ended(job.id).state is JobState.FAILED
    assert site.queue.retry(job)
    may_leave.set()
    record = site.ended(job.id)
    site.idle()
    assert (record.attempt, record.reason) == (2, "container exited with status 1")
    assert site.payloads.get(whole(job.id, record.queued_at)) is None


def test_a_stale_message_leaves_the_attempt_alone_that_runs(site) -> None:
    job = job_of("sleep 2\necho undisturbed")
    fail_once(site, job)
    site.queue.retry(job)
    site.start(threads=2)
    running = site.running(job.id)
    site.broker.enqueue(message_of(job))
    record = site.ended(job.id)
    site.idle()
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, running.attempt)
    assert site.lines(job.id) == ["undisturbed"]


@pytest.mark.parametrize("what", ["store", "queued"])
def test_a_retry_that_fails_half_way_is_over_at_once(site, monkeypatch, what) -> None:
    def fail(*_: object, **__: object) -> None:
        raise JetStreamError("no space")

    job = job_of("echo never")
    site.queue.put(job)
    site.queue.stop(job.id)
    monkeypatch.setattr(site.broker if what == "store" else site.store, what, fail)
    with pytest.raises(QueueUnavailable):
        site.queue.retry(job)
    record = site.ended(job.id)
    assert record.reason == "the job could not be put on the queue"
    monkeypatch.undo()
    site.start()
    site.idle()
    assert site.lines(job.id) == []
