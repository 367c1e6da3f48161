"""Dramatiq's Results middleware on our backend."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.results import Results
from dramatiq.results.errors import ResultFailure, ResultMissing, ResultTimeout

from brokers.nats import NatsBroker, NatsResultBackend


@pytest.fixture
def backend(connection) -> NatsResultBackend:
    return NatsResultBackend(connection=connection, namespace=f"r{uuid.uuid4().hex[:8]}")


@pytest.fixture
def broker(connection, backend) -> Iterator[NatsBroker]:
    broker = NatsBroker(
        connection=connection,
        namespace=f"t{uuid.uuid4().hex[:8]}",
        middleware=[Results(backend=backend, store_results=True)],
    )
    yield broker
    broker.close()


@pytest.fixture
def worker(broker) -> Iterator[Worker]:
    worker = Worker(broker, worker_timeout=100, worker_threads=8)
    yield worker
    worker.stop()


def message() -> dramatiq.Message:
    return dramatiq.Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={})


@pytest.mark.parametrize("value", [None, 0, "", {"a": [1, 2.5, "ä"]}, "x" * 100_000])
def test_a_result_reads_back_as_it_was_stored(backend, value) -> None:
    asked = message()
    backend.store_result(asked, value, ttl=60_000)
    assert backend.get_result(asked) == value


def test_a_result_that_is_not_there_is_missing(backend) -> None:
    with pytest.raises(ResultMissing):
        backend.get_result(message())
    with pytest.raises(ResultTimeout):
        backend.get_result(message(), block=True, timeout=200)


def test_a_result_is_missing_again_after_its_time(backend) -> None:
    asked = message()
    backend.store_result(asked, 42, ttl=200)
    threading.Event().wait(0.3)  # time itself is what is tested
    with pytest.raises(ResultMissing):
        backend.get_result(asked)
    backend.store_result(asked, 43, ttl=60_000)
    assert backend.get_result(asked) == 43


def test_what_an_actor_returns_can_be_waited_for(broker, backend, worker) -> None:
    actor = dramatiq.actor(lambda x: x * x, broker=broker, actor_name="square", queue_name="q")
    worker.start()
    messages = [actor.send(number) for number in range(50)]
    results = [sent.get_result(backend=backend, block=True, timeout=30_000) for sent in messages]
    assert results == [number * number for number in range(50)]


def test_what_an_actor_raises_is_told(broker, backend, worker) -> None:
    def fail() -> None:
        raise ValueError("broken")

    actor = dramatiq.actor(fail, broker=broker, actor_name="fail", queue_name="q")
    worker.start()
    sent = actor.send()
    broker.join("q", timeout=30_000)
    with pytest.raises((ResultFailure, ResultMissing)):
        sent.get_result(backend=backend)


def test_a_backend_with_a_connection_of_its_own_closes_it(nats_server) -> None:
    own = NatsResultBackend(url=nats_server.url, namespace=f"r{uuid.uuid4().hex[:8]}")
    asked = message()
    own.store_result(asked, 1, ttl=60_000)
    assert own.get_result(asked) == 1
    own.close()
    own.close()
    assert not own._connection.connected


def test_a_shared_connection_stays_open(backend, connection) -> None:
    backend.store_result(message(), 1, ttl=60_000)
    backend.close()
    assert connection.connected
