"""Dramatiq's Results middleware on our backend."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.common import q_name
from dramatiq.middleware import Interrupt
from dramatiq.middleware.threading import raise_thread_exception
from dramatiq.results import Results
from dramatiq.results.errors import ResultFailure, ResultMissing, ResultTimeout

from brokers.nats import NatsBroker, NatsResultBackend
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import MessageTooLarge
from tests.brokers.kv_tools import Wires, subscriptions_heard


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


@pytest.fixture
def wires(connection, monkeypatch) -> Wires:
    return Wires(connection, monkeypatch)


@pytest.fixture
def watched(connection, wires) -> Iterator[NatsResultBackend]:
    """A backend of which the test knows what it sends."""
    backend = NatsResultBackend(connection=connection, namespace=f"r{uuid.uuid4().hex[:8]}")
    yield backend
    backend.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def wait_for(backend: NatsResultBackend, asked: dramatiq.Message, timeout: int = 30_000):
    return backend.get_result(asked, block=True, timeout=timeout)


def delete_stream(connection: NatsConnection, name: str) -> None:
    async def delete() -> None:
        await connection.jetstream.delete_stream(name)

    connection.run(delete())


@pytest.mark.parametrize("value", [None, 0, "", {"a": [1, 2.5, "ä"]}, "x" * 100_000])
def test_a_waiting_thread_gets_the_result_when_it_is_stored(watched, wires, pool, value) -> None:
    asked = message()
    waiting = pool.submit(wait_for, watched, asked)
    wires.await_watches()
    watched.store_result(asked, value, ttl=60_000)
    assert waiting.result(5) == value


def test_a_result_that_is_there_already_is_not_waited_for(watched, wires) -> None:
    asked = message()
    watched.store_result(asked, 1, ttl=60_000)
    start = time.monotonic()
    assert wait_for(watched, asked) == 1
    assert time.monotonic() - start < 1


def test_sixteen_threads_wait_for_a_result_each_and_sixteen_for_the_same(
    watched, wires, pool
) -> None:
    each, same = [message() for _ in range(16)], message()
    waiting = [pool.submit(wait_for, watched, asked) for asked in each + [same] * 16]
    wires.await_watches(32)
    for number, asked in reversed(list(enumerate(each))):
        watched.store_result(asked, number, ttl=60_000)
    watched.store_result(same, "same", ttl=60_000)
    assert [future.result(10) for future in waiting] == [*range(16), *["same"] * 16]


def test_a_waiting_thread_does_not_ask_again_and_again(watched, wires) -> None:
    watched.store_result(message(), 1, ttl=60_000)
    wires.asked.clear()
    with pytest.raises(ResultTimeout):
        wait_for(watched, message(), timeout=2_500)
    assert len(wires.asked) == 4  # at once, twice when the subscription has settled, in the end


def test_what_a_message_failed_of_wakes_a_waiting_thread(watched, wires, pool) -> None:
    asked = message()
    waiting = pool.submit(wait_for, watched, asked)
    wires.await_watches()
    watched.store_exception(asked, ValueError("broken"), ttl=60_000)
    with pytest.raises(ResultFailure) as failure:
        waiting.result(5)
    assert failure.value.orig_exc_type == "ValueError"
    assert failure.value.orig_exc_msg == "broken"


def test_a_result_that_is_over_already_wakes_nobody(watched, wires, pool) -> None:
    asked = message()
    waiting = pool.submit(wait_for, watched, asked)
    wires.await_watches()
    watched.store_result(asked, "old", ttl=0)
    watched.store_result(asked, "new", ttl=60_000)
    assert waiting.result(5) == "new"


def test_without_a_timeout_ten_seconds_are_waited(backend, monkeypatch) -> None:
    waited = []

    def wait(bucket, key, timeout):
        waited.append(timeout)
        return bucket.get(key)

    monkeypatch.setattr("brokers.nats.results.wait", wait)
    with pytest.raises(ResultTimeout):
        backend.get_result(message(), block=True)
    assert waited == [10]


def test_a_timeout_of_zero_looks_once(backend) -> None:
    asked = message()
    with pytest.raises(ResultTimeout):
        wait_for(backend, asked, timeout=0)
    backend.store_result(asked, 1, ttl=60_000)
    assert wait_for(backend, asked, timeout=0) == 1


def test_a_wait_takes_as_long_as_it_may_and_not_much_longer(backend) -> None:
    backend.store_result(message(), 1, ttl=60_000)
    start = time.monotonic()
    with pytest.raises(ResultTimeout):
        wait_for(backend, message(), timeout=300)
    assert 0.3 <= time.monotonic() - start < 1.3  # time itself is what is tested


def test_a_wait_leaves_no_subscription_behind(watched, wires) -> None:
    asked, other = message(), message()
    watched.store_result(asked, 1, ttl=60_000)
    wait_for(watched, asked)
    with pytest.raises(ResultTimeout):
        wait_for(watched, other, timeout=10)
    assert len(wires.opened) == 1  # so it is also the one that hears what follows
    with watched._bucket.requester.line() as line:
        heard = subscriptions_heard(line, lambda: watched.store_result(asked, 2, ttl=60_000))
        heard += subscriptions_heard(line, lambda: watched.store_result(other, 2, ttl=60_000))
    assert heard == []


def test_a_time_limit_ends_a_wait(watched, wires, pool) -> None:
    threads = []

    def wait() -> None:
        threads.append(threading.get_ident())
        wait_for(watched, message(), timeout=60_000)

    waiting = pool.submit(wait)
    wires.await_watches()
    raise_thread_exception(threads[0], Interrupt)
    with pytest.raises(Interrupt):
        waiting.result(10)


def test_keys_with_the_namespace_show_what_they_are_of(connection) -> None:
    namespace = f"r{uuid.uuid4().hex[:8]}"
    backend = NatsResultBackend(
        connection=connection, namespace=namespace, use_namespace_prefix_keys=True
    )
    asked = message()
    backend.store_result(asked, 1, ttl=60_000)
    assert wait_for(backend, asked) == 1
    assert backend._bucket.keys() == [
        "=3A".join((namespace, q_name(asked.queue_name), asked.actor_name, asked.message_id))
    ]


def test_a_result_that_the_server_would_not_take_is_refused_and_the_next_one_stored(
    backend,
) -> None:
    with pytest.raises(MessageTooLarge):
        backend.store_result(message(), "x" * 1_100_000, ttl=60_000)
    asked = message()
    backend.store_result(asked, 1, ttl=60_000)
    assert backend.get_result(asked) == 1


def test_a_result_stored_while_the_connection_was_cut_is_found(own_server, monkeypatch) -> None:
    connection, other = NatsConnection(own_server.url), NatsConnection(own_server.url)
    wires = Wires(connection, monkeypatch)
    backend, storing = NatsResultBackend(connection=connection), NatsResultBackend(connection=other)
    asked = message()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for, backend, asked)
        wires.await_watches()
        wires.may_open.clear()
        own_server.kill()
        own_server.start()
        storing.store_result(asked, 42, ttl=60_000)
        assert not waiting.done()
        wires.may_open.set()
        assert waiting.result(30) == 42
    for each in (backend, storing, connection, other):
        each.close()


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_a_waiting_thread_survives_a_restart_of_the_server(
    own_server, monkeypatch, storage
) -> None:
    connection = NatsConnection(own_server.url)
    wires = Wires(connection, monkeypatch)
    backend = NatsResultBackend(connection=connection, storage=storage)
    asked, before = message(), message()
    backend.store_result(before, "before", ttl=60_000)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for, backend, asked)
        wires.await_watches()
        own_server.kill()
        own_server.start()
        backend.store_result(asked, 42, ttl=60_000)
        assert waiting.result(30) == 42
    if storage == "file":
        assert backend.get_result(before) == "before"
    backend.close()
    connection.close()


def test_a_wait_without_nats_ends_when_its_time_is_up(own_server) -> None:
    connection = NatsConnection(own_server.url)
    backend = NatsResultBackend(connection=connection)
    backend.store_result(message(), 1, ttl=60_000)
    own_server.kill()
    with pytest.raises(ResultTimeout):
        wait_for(backend, message(), timeout=500)
    backend.close()
    connection.close()


def test_a_bucket_that_was_deleted_is_made_anew(watched, connection) -> None:
    watched.store_result(message(), 1, ttl=60_000)
    delete_stream(connection, watched._bucket.stream)
    with pytest.raises(ResultMissing):
        watched.get_result(message())
    delete_stream(connection, watched._bucket.stream)
    asked = message()
    watched.store_result(asked, 2, ttl=60_000)
    assert wait_for(watched, asked) == 2


def test_a_waiting_thread_survives_that_the_bucket_is_deleted(
    watched, wires, connection, pool
) -> None:
    watched.store_result(message(), 1, ttl=60_000)
    asked = message()
    waiting = pool.submit(wait_for, watched, asked)
    wires.await_watches()
    delete_stream(connection, watched._bucket.stream)
    watched.store_result(asked, 2, ttl=60_000)
    assert waiting.result(10) == 2


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_the_bucket_is_kept_where_it_was_asked_to(connection, storage) -> None:
    backend = NatsResultBackend(
        connection=connection, namespace=f"r{uuid.uuid4().hex[:8]}", storage=storage, replicas=1
    )
    backend.store_result(message(), 1, ttl=60_000)

    async def config():
        return (await connection.jetstream.stream_info(backend._bucket.stream)).config

    assert connection.run(config()).storage == storage
    assert connection.run(config()).num_replicas == 1


def test_closing_leaves_neither_thread_nor_socket(nats_server) -> None:
    threads, files = set(threading.enumerate()), os.listdir("/proc/self/fd")
    backend = NatsResultBackend(url=nats_server.url, namespace=f"r{uuid.uuid4().hex[:8]}")
    asked = message()
    backend.store_result(asked, 1, ttl=60_000)
    assert wait_for(backend, asked) == 1
    backend.close()
    backend.close()
    assert set(threading.enumerate()) == threads
    assert os.listdir("/proc/self/fd") == files


def test_a_forked_child_and_its_parent_go_on(backend) -> None:
    ours, theirs = message(), message()
    backend.store_result(ours, 1, ttl=60_000)
    child = multiprocessing.get_context("fork").Process(
        target=answer_from_a_child, args=(backend, ours, theirs)
    )
    child.start()
    assert wait_for(backend, theirs) == 2
    child.join(30)
    assert child.exitcode == 0
    assert backend.get_result(ours) == 1


def answer_from_a_child(backend: NatsResultBackend, ours, theirs) -> None:
    backend.store_result(theirs, wait_for(backend, ours) + 1, ttl=60_000)
    backend.close()


GREEN = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, dramatiq
from brokers.nats import NatsResultBackend, NatsRateLimiterBackend
from dramatiq.rate_limits import WindowRateLimiter
from brokers.nats.connection import NatsConnection
connection = NatsConnection(sys.argv[1])
backend = NatsResultBackend(connection=connection, namespace="green")
asked = [dramatiq.Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={})
         for _ in range(8)]
backend.store_result(asked[0], 0, ttl=60_000)
waiting = [gevent.spawn(backend.get_result, one, block=True, timeout=20_000) for one in asked]
gevent.sleep(0.1)
for number, one in enumerate(asked):
    backend.store_result(one, number, ttl=60_000)
gevent.joinall(waiting, timeout=20)
assert [one.value for one in waiting] == list(range(8)), [one.value for one in waiting]
limits = NatsRateLimiterBackend(connection=connection, namespace="green-limits")
limiter = WindowRateLimiter(limits, "w", limit=5, window=60)
taken = [gevent.spawn(limiter._acquire) for _ in range(16)]
gevent.joinall(taken, timeout=20)
assert sum(one.value for one in taken) == 5
backend.close(); limits.close(); connection.close()
print("done")
"""


def test_it_works_under_gevent(nats_server) -> None:
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", GREEN, nats_server.url], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "done\n", done.stderr
