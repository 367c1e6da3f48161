"""Jobs on their way in."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message

from brokers import queue as queue_module
from brokers import subjects
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.nats.connection import NatsConnection
from brokers.opening import open_broker
from brokers.payloads import FIRST, PayloadStore, whole
from brokers.queue import JobQueue, job_in, message_of, open_queue
from brokers.records import MAX_METADATA, MAX_TEXT
from brokers.settings import NatsSettings
from executors.errors import JobQueueFull, QueueUnavailable
from executors.job import Job, JobState, Step


def job(**fields: Any) -> Job:
    return Job(**{"id": str(uuid.uuid4()), "name": "n", "steps": (Step(image="i"),), **fields})


@pytest.fixture
def server(own_server):
    return own_server


@pytest.fixture
def connection(server) -> Iterator[NatsConnection]:
    """A second one, that looks on."""
    connection = NatsConnection(server.url)
    yield connection
    connection.close()


@pytest.fixture
def store(connection) -> JobStore:
    return JobStore(connection, max_age=3600, patience=30)


@pytest.fixture
def payloads(connection) -> PayloadStore:
    return PayloadStore(connection, max_age=3600)


@pytest.fixture
def queue(server) -> Iterator[JobQueue]:
    queue = open_queue(NatsSettings(url=server.url), Job.to_dict)
    yield queue
    queue.close()


def stored(connection: NatsConnection, stream: str, subject: str) -> list[Any]:
    """All messages of the subject, of which there are few."""

    async def read() -> list[Any]:
        messages: list[Any] = []
        info: Any = await connection.jetstream.stream_info(stream)
        for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            message = await connection.jetstream.get_msg(stream, sequence)
            if message.subject == subject:
                messages.append(message)
        return messages

    return connection.run(read())


def states(connection: NatsConnection, job_id: str) -> list[str]:
    return [
        state.value
        for state in JobState
        for message in stored(connection, subjects.STATUS_STREAM, subjects.status(state))
        if message.data.decode() == job_id
    ]


def lane(connection: NatsConnection, number: int) -> list[Message[Any]]:
    subject = f"hades.q.jobs.{number}"
    return [Message.decode(raw.data) for raw in stored(connection, "hades-queues", subject)]


def until(condition: Any) -> None:
    while not condition():
        threading.Event().wait(0.01)


@pytest.mark.parametrize(("priority", "number"), [(9, 2), (3, 2), (2, 1), (1, 0), (0, 0), (-7, 0)])
def test_a_job_is_recorded_announced_and_put_on_the_lane_of_its_priority(
    queue, store, connection, priority, number
) -> None:
    accepted = job(priority=priority, metadata={"A": "ä"})
    queue.put(accepted)
    record = store.get(accepted.id)
    assert record is not None
    assert (record.state, record.attempt) == (JobState.QUEUED, 0)
    assert states(connection, accepted.id) == ["Queued"]
    [message] = lane(connection, number)
    assert (message.queue_name, message.actor_name) == (subjects.QUEUE, subjects.ACTOR)
    assert Job.from_dict(message.args[0]) == accepted


def test_a_job_that_is_too_large_for_a_message_is_stored_beside_the_queue(
    queue, store, connection, payloads
) -> None:
    large = job(steps=(Step(image="i", script="x" * 1_100_000),))
    queue.put(large)
    [message] = lane(connection, 2)
    assert message.args[0] == {"id": large.id, "stored": FIRST}
    assert job_in(message.args[0], payloads) == large
    record = store.get(large.id)
    assert record is not None
    assert record.state is JobState.QUEUED
    assert queue.shown(large.id) == json.loads(json.dumps(large.to_dict()))


def test_long_names_are_cut_in_the_record_and_stay_as_they_are_in_the_job(
    queue, store, connection, payloads
) -> None:
    long = job(
        name="n" * 1_100_000,
        metadata={f"K{number}": "v" * 100_000 for number in range(150)},
        steps=(Step(image="i", name="s" * 900_000),),
    )
    queue.put(long)
    record = store.get(long.id)
    assert record is not None
    assert (record.name[-1], len(record.name)) == ("…", MAX_TEXT)
    assert len(record.metadata) == MAX_METADATA
    [message] = lane(connection, 2)
    assert job_in(message.args[0], payloads) == long


def test_many_jobs_are_put_at_once_in_order(queue, store, connection) -> None:
    jobs = [job(name=str(number)) for number in range(300)]
    records = queue.put_many(jobs)
    assert [record.id for record in records] == [each.id for each in jobs]
    assert [Job.from_dict(message.args[0]) for message in lane(connection, 2)] == jobs
    assert [store.get(each.id) for each in jobs] == records
    assert [states(connection, each.id) for each in jobs[:3]] == [["Queued"]] * 3


def test_putting_a_job_twice_is_harmless(queue, store, connection) -> None:
    twice = job()
    first = queue.put(twice)
    queue.put(twice)
    assert store.get(twice.id) == first
    assert len(lane(connection, 2)) == 1


def test_a_stopped_job_is_told_of_and_its_message_is_gone(queue, store, connection) -> None:
    unwanted = job(metadata={"TOKEN": "t0ps3cret"})
    queue.put(unwanted)
    record = queue.stop(unwanted.id, "no more")
    assert (record.state, record.reason) == (JobState.STOPPED, "no more")
    assert store.get(unwanted.id) == record
    assert states(connection, unwanted.id) == ["Queued", "Stopped"]
    assert lane(connection, 2) == []
    assert queue.stop(unwanted.id) is None


def test_nothing_of_a_large_job_stays_when_it_is_stopped(queue, payloads) -> None:
    large = job(steps=(Step(image="i", script="x" * 1_100_000),))
    queue.put(large)
    assert payloads.get(whole(large.id))
    queue.stop(large.id)
    assert payloads.get(whole(large.id)) is None


def test_a_job_that_is_over_may_be_tried_again_under_its_id(queue, store, connection) -> None:
    again = job()
    queue.put(again)
    assert queue.retry(again) is None
    queue.stop(again.id)
    record = queue.retry(again)
    assert (record.state, record.attempt) == (JobState.QUEUED, 0)
    assert store.get(again.id) == record
    queue.stop(again.id)
    record = queue.retry(again)
    assert store.get(again.id) == record
    assert [Job.from_dict(message.args[0]) for message in lane(connection, 2)] == [again]
    assert states(connection, again.id) == [*["Queued"] * 3, *["Stopped"] * 2]


def test_without_nats_a_job_is_refused_in_time() -> None:
    connection = NatsConnection("nats://127.0.0.1:1", connect_timeout=0.5)
    broker = open_broker(NatsSettings(), connection, middleware=[])
    absent = JobQueue(
        broker,
        JobStore(connection, max_age=60),
        Events(connection, max_age=60, patience=0.1),
        PayloadStore(connection, max_age=60),
        Job.to_dict,
    )
    assert not absent.connected
    with pytest.raises(QueueUnavailable):
        absent.put(job())
    absent.close()


def test_what_was_refused_while_nats_was_away_does_not_run_when_it_is_back(
    queue, store, connection, server, monkeypatch
) -> None:
    queue.put(job(name="before"))
    monkeypatch.setattr(queue.store, "_patience", 0.3)
    server.kill()
    refused = job(name="refused")
    with pytest.raises(QueueUnavailable):
        queue.put(refused)
    server.start()
    until(lambda: queue.connected)
    queue.put(job(name="after"))
    assert [message.args[0]["name"] for message in lane(connection, 2)] == ["before", "after"]
    until(lambda: store.get(refused.id))
    record = store.get(refused.id)
    assert record is not None
    assert (record.state, record.attempt) == (JobState.FAILED, 0)


def test_what_was_refused_while_nats_was_frozen_says_failed_and_cannot_be_claimed(
    queue, store, connection, server, monkeypatch
) -> None:
    """The server reads what it was sent once it goes on; by then the client was told otherwise."""
    queue.put(job())
    monkeypatch.setattr("brokers.nats.broker.ENQUEUE_PATIENCE", 0.3)
    refused = job()
    store_messages = queue.broker.store

    def freeze_and_store(*args: Any, **options: Any) -> list[int]:
        os.kill(server.pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{server.pid}/stat").read_text().split()[2] == "T")
        return store_messages(*args, **options)

    monkeypatch.setattr(queue.broker, "store", freeze_and_store)
    try:
        with pytest.raises(QueueUnavailable):
            queue.put(refused)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    until(lambda: (record := store.get(refused.id)) and record.state is JobState.FAILED)
    record = store.get(refused.id)
    assert record is not None
    assert record.reason == "the job could not be put on the queue"
    assert store.claim(refused, "w") is None
    until(lambda: "Failed" in states(connection, refused.id))


def test_a_queue_survives_a_stream_that_somebody_has_deleted(queue, connection) -> None:
    queue.put(job())
    connection.run(connection.jetstream.delete_stream("hades-queues"))
    queue.put(job(name="again"))
    assert [message.args[0]["name"] for message in lane(connection, 2)] == ["again"]


def test_a_queue_survives_a_deleted_stream_of_states(queue, connection, monkeypatch) -> None:
    queue.put(job())
    monkeypatch.setattr("brokers.nats.broker.ENQUEUE_PATIENCE", 0.3)
    connection.run(connection.jetstream.delete_stream(subjects.STATUS_STREAM))
    with pytest.raises(QueueUnavailable):
        queue.put(job())
    last = job()
    queue.put(last)
    assert states(connection, last.id) == ["Queued"]


def test_closing_twice_is_no_error(queue) -> None:
    queue.put(job())
    queue.close()
    queue.close()


def test_a_submission_waits_for_seconds_not_for_ever() -> None:
    assert 0 < queue_module.PUT_PATIENCE <= 10


@pytest.fixture
def bounded(server) -> Iterator[JobQueue]:
    queue = open_queue(NatsSettings(url=server.url, max_queued_jobs=2), Job.to_dict)
    yield queue
    queue.close()


def test_a_full_queue_refuses_a_job_and_leaves_nothing_of_it(bounded, store, connection) -> None:
    for _ in range(2):
        bounded.put(job())
    refused = job()
    with pytest.raises(JobQueueFull, match="its limit is 2"):
        bounded.put(refused)
    assert store.get(refused.id) is None
    assert states(connection, refused.id) == []
    assert len(lane(connection, 2)) == 2


def test_a_job_that_is_refused_at_the_last_moment_says_failed(bounded, queue, store) -> None:
    """A process that has not put any job looks at the queue when it does."""
    for _ in range(2):
        queue.put(job())
    refused = job()
    with pytest.raises(JobQueueFull):
        bounded.put(refused)
    until(lambda: store.get(refused.id))
    record = store.get(refused.id)
    assert record is not None
    assert (record.state, record.reason) == (JobState.FAILED, "the queue is full")


def test_workers_put_back_what_they_took_however_full_the_queue_is(server) -> None:
    connection = NatsConnection(server.url)
    broker = open_broker(NatsSettings(url=server.url, max_queued_jobs=1), connection, middleware=[])
    for _ in range(3):
        broker.enqueue(message_of(job()))
    broker.close()
    connection.close()
