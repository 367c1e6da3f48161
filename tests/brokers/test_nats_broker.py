"""The broker against a real nats-server, with real Dramatiq workers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import Retries

from brokers.embedded import EmbeddedNats
from brokers.nats import NatsBroker
from brokers.nats.errors import ConnectionFailed, MessageTooLarge


@pytest.fixture
def broker(nats_server: EmbeddedNats) -> Iterator[NatsBroker]:
    broker = NatsBroker(
        url=nats_server.url,
        namespace=f"t{uuid.uuid4().hex[:8]}",
        ack_wait=2.0,
        max_priority=2,
        middleware=[],
    )
    broker.emit_after("process_boot")
    yield broker
    broker.close()


@pytest.fixture
def start_worker(broker: NatsBroker) -> Iterator[object]:
    workers: list[Worker] = []

    def start(threads: int = 1) -> Worker:
        worker = Worker(broker, worker_timeout=100, worker_threads=threads)
        worker.queue_prefetch = threads
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(timeout=10_000)


def test_a_message_reaches_an_actor(broker, start_worker):
    done = threading.Event()
    actor = dramatiq.actor(lambda x: done.set(), broker=broker, actor_name="a", queue_name="q")
    start_worker()
    actor.send(1)
    assert done.wait(10)
    broker.join("q", timeout=10_000)
    assert broker.get_queue_message_counts("q") == (0, 0, 0)


def test_many_messages_each_run_once(broker, start_worker):
    seen, lock = [], threading.Lock()

    def note(x):
        with lock:
            seen.append(x)

    actor = dramatiq.actor(note, broker=broker, actor_name="a", queue_name="q")
    start_worker(threads=4)
    for number in range(100):
        actor.send(number)
    broker.join("q", timeout=30_000)
    assert sorted(seen) == list(range(100))


def test_an_actor_longer_than_the_ack_wait_runs_once(broker, start_worker):
    runs, done = [], threading.Event()

    def slow():
        runs.append(1)
        threading.Event().wait(7)
        done.set()

    actor = dramatiq.actor(slow, broker=broker, actor_name="a", queue_name="q")
    start_worker(threads=2)
    actor.send()
    assert done.wait(20)
    broker.join("q", timeout=10_000)
    assert len(runs) == 1


def test_a_delayed_message_runs_when_it_is_due(broker, start_worker):
    done = threading.Event()
    actor = dramatiq.actor(done.set, broker=broker, actor_name="a", queue_name="q")
    start_worker()
    for delay in (300, 1500):
        done.clear()
        sent = time.monotonic()
        actor.send_with_options(delay=delay)
        assert done.wait(10)
        assert time.monotonic() - sent >= delay / 1000 - 0.05


@pytest.mark.parametrize("hours", [2, -2])
def test_a_delay_is_kept_though_the_senders_clock_is_wrong(
    broker, start_worker, monkeypatch, hours
):
    done, right = threading.Event(), time.time
    actor = dramatiq.actor(done.set, broker=broker, actor_name="a", queue_name="q")
    start_worker()
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3600.0)
    sent = time.monotonic()
    actor.send_with_options(delay=1500)
    assert done.wait(10)
    assert time.monotonic() - sent > 1.0


def test_a_failed_message_becomes_a_dead_letter_with_its_reason(broker, start_worker):
    broker.add_middleware(Retries(max_retries=0))

    def fail():
        raise ValueError("broken")

    actor = dramatiq.actor(fail, broker=broker, actor_name="a", queue_name="q")
    start_worker()
    actor.send()
    broker.join("q", timeout=10_000)
    [letter] = broker.get_dead_letters("q")
    assert letter.message.actor_name == "a"
    assert letter.reason == "ValueError: broken"
    assert broker.get_queue_message_counts("q") == (0, 0, 1)
    broker.flush("q")
    assert broker.get_queue_message_counts("q") == (0, 0, 0)


def test_high_lanes_go_first_and_low_ones_are_not_starved(broker, start_worker):
    order = []
    actor = dramatiq.actor(order.append, broker=broker, actor_name="a", queue_name="q")
    for _ in range(14):
        for lane in (0, 1, 2):
            actor.send_with_options(args=(lane,), broker_priority=lane)
    start_worker()
    broker.join("q", timeout=30_000)
    assert len(order) == 42
    first = order[:21]
    assert first.count(2) > first.count(1) > first.count(0) > 0


def test_a_busy_worker_holds_nothing_that_an_idle_one_could_run(broker, nats_server):
    other = NatsBroker(
        url=nats_server.url,
        namespace=broker.names.namespace,
        ack_wait=30.0,
        max_priority=2,
        middleware=[],
    )
    release, ran = threading.Event(), threading.Event()
    block = dramatiq.actor(
        lambda: release.wait(30) and None, broker=broker, actor_name="block", queue_name="q"
    )
    dramatiq.actor(
        lambda: release.wait(30) and None, broker=other, actor_name="block", queue_name="q"
    )
    for owner in (broker, other):
        dramatiq.actor(ran.set, broker=owner, actor_name="quick", queue_name="q")
    first = Worker(broker, worker_timeout=100, worker_threads=1)
    first.queue_prefetch = 1
    first.start()
    block.send()
    while not broker.held:
        threading.Event().wait(0.01)
    broker.get_actor("quick").send()
    second = Worker(other, worker_timeout=100, worker_threads=1)
    second.queue_prefetch = 1
    second.start()
    assert ran.wait(10)
    release.set()
    first.stop()
    second.stop()
    other.close()


def test_what_waits_in_a_stopped_worker_goes_back_to_the_queue(broker, start_worker):
    started, release = threading.Event(), threading.Event()

    def block():
        started.set()
        release.wait(20)

    actor = dramatiq.actor(block, broker=broker, actor_name="a", queue_name="q")
    worker = Worker(broker, worker_timeout=100, worker_threads=1)
    worker.queue_prefetch = 3
    worker.start()
    for _ in range(3):
        actor.send()
    assert started.wait(10)
    threading.Timer(0.5, release.set).start()
    worker.stop(timeout=10_000)
    assert broker.get_queue_stats()["q"].unfinished == 2


def test_a_poison_message_is_buried_after_its_limit(nats_server):
    broker = NatsBroker(
        url=nats_server.url,
        namespace=f"t{uuid.uuid4().hex[:8]}",
        ack_wait=1.0,
        max_deliver=2,
        middleware=[],
    )
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    actor.send()
    consumer = broker.consume("q", prefetch=3, timeout=5_000)
    for _ in range(2):
        message = next(consumer)
        assert not message.failed
        broker.emit_before("process_message", message)
        broker.held.let_go(message.ack_subject)  # as when its process dies
    message = next(consumer)
    assert message.failed
    consumer.nack(message)
    [letter] = broker.get_dead_letters("q")
    assert "delivered 2 times" in letter.reason
    consumer.close()
    broker.close()


@pytest.mark.parametrize("max_priority", [None, 2])
def test_a_message_that_is_handed_back_does_not_come_nearer_to_its_limit(nats_server, max_priority):
    broker = NatsBroker(
        url=nats_server.url,
        namespace=f"t{uuid.uuid4().hex[:8]}",
        ack_wait=1.0,
        max_deliver=2,
        max_priority=max_priority,
        middleware=[],
    )
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    sent = actor.send()
    consumer = broker.consume("q", prefetch=3, timeout=5_000)
    for runs in (0, 1, 2):
        for _ in range(3):
            message = next(consumer)
            assert (message.message_id, message.failed) == (sent.message_id, runs == 2)
            consumer.requeue([message])
        message = next(consumer)
        broker.emit_before("process_message", message)
        broker.held.let_go(message.ack_subject)  # as when its process dies
    consumer.close()
    broker.close()


def test_the_broker_survives_a_restart_of_the_server(own_server):
    broker = NatsBroker(url=own_server.url, namespace="r", ack_wait=2.0, middleware=[])
    seen = []
    actor = dramatiq.actor(seen.append, broker=broker, actor_name="a", queue_name="q")
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    actor.send(1)
    broker.join("q", timeout=10_000)
    own_server.kill()
    own_server.restart()
    actor.send(2)
    broker.join("q", timeout=30_000)
    worker.stop()
    broker.close()
    assert seen == [1, 2]


def test_an_oversized_message_is_refused_before_it_is_sent(broker):
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    with pytest.raises(MessageTooLarge):
        actor.send("x" * 2_000_000)
    actor.send("small")
    assert broker.get_queue_message_counts("q")[0] == 1


def test_an_absent_server_is_a_connection_error():
    broker = NatsBroker(
        url="nats://127.0.0.1:1", namespace="none", middleware=[], connect_timeout=1.0
    )
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    with pytest.raises(ConnectionFailed):
        actor.send("x")
    broker.close()


def test_an_idle_queue_starts_with_the_top_lane(broker, start_worker):
    order: list[int] = []
    actor = dramatiq.actor(order.append, broker=broker, actor_name="a", queue_name="q")
    for lane in (0, 1, 2):
        actor.send_with_options(args=(lane,), broker_priority=lane)
    start_worker()
    broker.join("q", timeout=30_000)
    assert order == [2, 1, 0]
