"""Jobs on their way in."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq import Message

from brokers import queue as queue_module
from brokers import subjects
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.nats.connection import NatsConnection
from brokers.queue import JobQueue, message_of, open_broker, open_queue
from brokers.settings import NatsSettings
from executors.errors import JobQueueFull, JobTooLarge, QueueUnavailable
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
def queue(server) -> Iterator[JobQueue]:
    queue = open_queue(NatsSettings(url=server.url))
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


def test_a_job_that_is_too_large_is_refused_and_its_record_says_failed(
    queue, store, connection
) -> None:
    large = job(steps=(Step(image="i", script="x" * 1_100_000),))
    with pytest.raises(JobTooLarge):
        queue.put(large)
    record = store.get(large.id)
    assert record is not None
    assert record.state is JobState.FAILED
    assert record.reason == "the job does not fit into one message"
    assert states(connection, large.id) == ["Queued", "Failed"]
    assert lane(connection, 2) == []
    queue.put(job())
    assert queue.connected


def test_a_job_whose_record_alone_is_too_large_is_refused(queue, store) -> None:
    large = job(name="n" * 1_100_000)
    with pytest.raises(JobTooLarge):
        queue.put(large)
    assert store.get(large.id) is None


def test_without_nats_a_job_is_refused_in_time() -> None:
    connection = NatsConnection("nats://127.0.0.1:1", connect_timeout=0.5)
    broker = open_broker(NatsSettings(), connection, middleware=[])
    absent = JobQueue(broker, JobStore(connection, max_age=60), Events(connection, max_age=60))
    assert not absent.connected
    with pytest.raises(QueueUnavailable):
        absent.put(job())
    absent.close()


def test_what_was_refused_while_nats_was_away_does_not_run_when_it_is_back(
    queue, store, connection, server, monkeypatch
) -> None:
    queue.put(job(name="before"))
    monkeypatch.setattr(queue._store, "_patience", 0.3)
    server.kill()
    refused = job(name="refused")
    with pytest.raises(QueueUnavailable):
        queue.put(refused)
    server.start()
    until(lambda: queue.connected)
    queue.put(job(name="after"))
    assert [message.args[0]["name"] for message in lane(connection, 2)] == ["before", "after"]
    assert store.get(refused.id) is None


def test_what_was_refused_while_nats_was_frozen_says_failed_and_cannot_be_claimed(
    queue, store, connection, server, monkeypatch
) -> None:
    """The server reads what it was sent once it goes on; by then the client was told otherwise."""
    queue.put(job())
    monkeypatch.setattr("brokers.nats.broker.ENQUEUE_PATIENCE", 0.3)
    refused = job()
    announce = queue._events.status

    def announce_and_freeze(*args: Any, **options: Any) -> None:
        announce(*args, **options)
        if args[1] is JobState.QUEUED:
            os.kill(server.pid, signal.SIGSTOP)

    monkeypatch.setattr(queue._events, "status", announce_and_freeze)
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


def test_closing_twice_is_no_error(queue) -> None:
    queue.put(job())
    queue.close()
    queue.close()


def test_a_submission_waits_for_seconds_not_for_ever() -> None:
    assert 0 < queue_module.PUT_PATIENCE <= 10


@pytest.fixture
def bounded(server) -> Iterator[JobQueue]:
    queue = open_queue(NatsSettings(url=server.url, max_queued_jobs=2))
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
