"""What every broker promises about whole queues, and about its end: the same tests for four."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from dramatiq.errors import BrokerConnectionError, QueueJoinTimeout

from tests.brokers.contract.support import FAR_FUTURE_MS, is_empty, put, take_one, until


def fill(broker, queue, consume) -> None:
    """Two messages that are ready, one that is delayed, one that is dead."""
    put(broker, queue, "dead")
    consumer = consume(broker, queue)
    consumer.nack(take_one(consumer))
    consumer.close()
    put(broker, queue, "delayed", delay=FAR_FUTURE_MS)
    for _ in range(2):
        put(broker, queue, "ready")


# --- flush


def test_flush_drops_what_is_ready_delayed_or_dead(broker, queue, consume, vendor) -> None:
    fill(broker, queue, consume)
    broker.flush(queue)
    assert is_empty(consume(broker, queue))
    broker.join(queue, timeout=2_000)
    assert vendor.dead_letters(broker, queue) == []


def test_flush_leaves_other_queues_alone(broker, queue, consume) -> None:
    names = [queue, f"{queue}.other", f"{queue}-"]
    for name in names:
        put(broker, name, name)
    broker.flush(queue)
    for name in names[1:]:
        assert take_one(consume(broker, name)).args == (name,)


def test_flush_all_drops_everything_of_every_declared_queue(broker, queue, consume, vendor) -> None:
    names = [queue, f"{queue}.other"]
    for name in names:
        fill(broker, name, consume)
    broker.flush_all()
    for name in names:
        assert is_empty(consume(broker, name))
        broker.join(name, timeout=3_000)
        assert vendor.dead_letters(broker, name) == []


def test_a_queue_that_was_never_used_can_be_flushed(broker, queue) -> None:
    broker.declare_queue(queue)
    broker.flush(queue)
    broker.flush_all()


def test_a_message_in_flight_may_be_acknowledged_after_a_flush(broker, queue, consume) -> None:
    for _ in range(2):
        put(broker, queue)
    consumer = consume(broker, queue)
    message = take_one(consumer)
    broker.flush(queue)
    consumer.ack(message)
    assert is_empty(consumer)
    sent = put(broker, queue, "new")
    assert take_one(consumer) == sent


# --- join


def test_join_gives_up_when_its_time_is_over(broker, queue) -> None:
    put(broker, queue)
    began = monotonic()
    with pytest.raises(QueueJoinTimeout):
        broker.join(queue, timeout=300)
    assert 0.28 <= monotonic() - began < 1.5


def test_join_of_an_empty_queue_returns(broker, queue) -> None:
    broker.declare_queue(queue)
    broker.join(queue, timeout=3_000)


def test_join_counts_messages_in_flight(broker, queue, consume) -> None:
    put(broker, queue)
    consumer = consume(broker, queue)
    message = take_one(consumer)
    with pytest.raises(QueueJoinTimeout):
        broker.join(queue, timeout=1_500)
    consumer.ack(message)
    broker.join(queue, timeout=3_000)


def test_join_counts_delayed_messages(broker, queue) -> None:
    put(broker, queue, delay=FAR_FUTURE_MS)
    with pytest.raises(QueueJoinTimeout):
        broker.join(queue, timeout=300)


def test_join_waits_for_a_delayed_message_that_a_worker_has_yet_to_run(
    broker, queue, start_worker
) -> None:
    start_worker(broker)
    put(broker, queue, delay=1_500)
    began = monotonic()
    broker.join(queue, timeout=5_000)
    assert monotonic() - began >= 1.4


def test_join_does_not_count_dead_letters(broker, queue, consume) -> None:
    put(broker, queue)
    consumer = consume(broker, queue)
    consumer.nack(take_one(consumer))
    consumer.close()
    broker.join(queue, timeout=3_000)


def test_join_counts_what_somebody_else_holds(open_broker, queue, consume) -> None:
    here, elsewhere = open_broker(), open_broker()
    put(here, queue)
    elsewhere.declare_queue(queue)
    take_one(consume(elsewhere, queue), timeout=1)
    with pytest.raises(QueueJoinTimeout):
        here.join(queue, timeout=1_500)


def test_join_returns_as_soon_as_the_last_message_is_done(broker, queue, consume) -> None:
    put(broker, queue)
    consumer = consume(broker, queue)
    message = take_one(consumer)
    with ThreadPoolExecutor(1) as threads:
        joined = threads.submit(broker.join, queue, timeout=10_000)
        consumer.ack(message)
        assert next(consumer) is None  # pika acknowledges while it reads
        joined.result(timeout=2)


# --- counts


def test_the_counts_are_of_what_is_ready_delayed_and_dead(broker, queue, consume) -> None:
    fill(broker, queue, consume)
    until(lambda: broker.get_queue_message_counts(queue) == (2, 1, 1), "two, one and one")


def test_what_is_in_flight_is_not_counted_as_ready(broker, queue, consume) -> None:
    for _ in range(3):
        put(broker, queue)
    until(lambda: broker.get_queue_message_counts(queue) == (3, 0, 0), "three are ready")
    consumer = consume(broker, queue, prefetch=1)
    message = take_one(consumer)
    until(lambda: broker.get_queue_message_counts(queue) == (2, 0, 0), "one is in flight")
    consumer.ack(message)
    assert take_one(consumer)
    until(lambda: broker.get_queue_message_counts(queue) == (1, 0, 0), "another one is in flight")


def test_a_queue_that_was_never_used_counts_nothing(broker, queue) -> None:
    broker.declare_queue(queue)
    assert broker.get_queue_message_counts(queue) == (0, 0, 0)


# --- the end


def sockets() -> set[str]:
    """Those that this process has open."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the one that listed the directory
    return {link for link in links if link.startswith("socket:")}


def test_closing_twice_is_harmless_and_leaves_no_thread_and_no_socket(
    vendor, queue, request
) -> None:
    threads, before = set(threading.enumerate()), sockets()
    broker = vendor.open(())
    request.addfinalizer(lambda: vendor.release(broker))
    put(broker, queue)
    consumer = broker.consume(queue, prefetch=1, timeout=50)
    consumer.ack(take_one(consumer))
    consumer.close()
    broker.close()
    broker.close()
    assert set(threading.enumerate()) <= threads
    assert sockets() <= before


def test_closing_a_broker_that_was_never_used_is_harmless(vendor) -> None:
    broker = vendor.open_without_server()
    broker.close()
    broker.close()
    vendor.release(broker)


# --- no server


def test_sending_without_a_server_is_a_connection_error(vendor, queue) -> None:
    broker = vendor.open_without_server()
    with pytest.raises(BrokerConnectionError):
        put(broker, queue)
    vendor.release(broker)


def test_consuming_without_a_server_is_a_connection_error(vendor, queue) -> None:
    broker = vendor.open_without_server()
    broker.declare_queue(queue)
    with pytest.raises(BrokerConnectionError):
        next(broker.consume(queue, prefetch=1, timeout=50))
    vendor.release(broker)
