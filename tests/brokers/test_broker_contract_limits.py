"""Limits on time, age and number, on every broker: the same tests for four of them."""

from __future__ import annotations

import threading
import uuid
from time import monotonic, sleep

import dramatiq
import pytest
from dramatiq.common import current_millis
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import (
    AgeLimit,
    Retries,
    Shutdown,
    ShutdownNotifications,
    TimeLimit,
    TimeLimitExceeded,
)
from dramatiq.rate_limits import Barrier, ConcurrentRateLimiter, WindowRateLimiter

from tests.brokers.contract.support import message_for, until


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def work_for_ever() -> None:
    """Interrupts come between two instructions of Python."""
    deadline = monotonic() + 20
    while monotonic() < deadline:
        sleep(0.005)
    pytest.fail("nobody has interrupted it")


# --- age and time


def test_a_message_that_is_too_old_does_not_run(
    open_broker, queue, start_worker, journal, vendor
) -> None:
    broker = open_broker(AgeLimit(max_age=60_000))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(age):
        journal.note(age)

    old = work.message("old").copy(message_timestamp=current_millis() - 61_000)
    broker.enqueue(old)
    work.send("young")
    start_worker(broker)
    assert journal.wait_for(1) == ["young"]
    vendor.join(broker, queue)
    until(
        lambda: (
            [each.message_id for each in vendor.dead_letters(broker, queue)] == [old.message_id]
        ),
        "it is among the dead letters",
    )
    assert journal.stays_at(1)


def test_an_actor_that_takes_too_long_is_interrupted_and_the_worker_goes_on(
    open_broker, queue, start_worker, journal, vendor
) -> None:
    broker = open_broker(TimeLimit(time_limit=200, interval=20), Retries(max_retries=0))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(slow):
        try:
            if slow:
                work_for_ever()
        except TimeLimitExceeded:
            journal.note("interrupted")
            raise
        journal.note("done")

    slow = work.send(True)
    work.send(False)
    start_worker(broker, threads=1)
    assert journal.wait_for(2) == ["interrupted", "done"]
    until(
        lambda: (
            [each.message_id for each in vendor.dead_letters(broker, queue)] == [slow.message_id]
        ),
        "the slow one is a dead letter",
    )


def test_an_actor_that_is_interrupted_while_it_sends_does_no_harm_to_later_messages(
    open_broker, queue, start_worker, journal, consume
) -> None:
    """The interrupt may come between a request to the server and its answer."""
    broker = open_broker(TimeLimit(time_limit=150, interval=10))
    sink = f"{queue}.sink"
    broker.declare_queue(sink)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def send_for_ever():
        try:
            while True:
                broker.enqueue(message_for(sink, "one of many"))
        finally:
            journal.note("interrupted")

    @dramatiq.actor(broker=broker, queue_name=queue)
    def send_one(number):
        broker.flush(sink)
        broker.enqueue(message_for(sink, number))
        journal.note(number)

    start_worker(broker, threads=1, queues={queue})
    for number in range(1, 4):
        send_for_ever.send()
        send_one.send(number)
        journal.wait_for(2 * number, timeout=4)
        consumer = consume(broker, sink)
        message = next(each for each in consumer if each is not None)
        assert message.args == (number,)
        consumer.ack(message)
        consumer.close()


def test_an_actor_that_wants_to_know_is_told_of_the_workers_end(
    open_broker, queue, start_worker, journal, gate
) -> None:
    broker = open_broker(ShutdownNotifications(), Retries(min_backoff=50, max_backoff=50))

    @dramatiq.actor(broker=broker, queue_name=queue, notify_shutdown=True)
    def work():
        try:
            if not journal.entries:
                journal.note("began")
                work_for_ever()
        except Shutdown:
            journal.note("interrupted")
            raise
        journal.note("ran again")

    work.send()
    worker = start_worker(broker, threads=1)
    journal.wait_for(1)
    worker.stop()
    assert journal.entries == ["began", "interrupted"]
    start_worker(broker)
    assert journal.wait_for(3, timeout=5)[2:] == ["ran again"]


# --- rate limits


def test_no_more_actors_than_allowed_run_at_once(
    open_broker, queue, start_worker, journal, limits, key
) -> None:
    broker = open_broker(Retries(min_backoff=20, max_backoff=80))
    mutex = ConcurrentRateLimiter(limits, key, limit=1, ttl=20_000)
    inside = threading.Semaphore(1)

    @dramatiq.actor(broker=broker, queue_name=queue, max_retries=None)
    def work(number):
        with mutex.acquire():
            assert inside.acquire(blocking=False), "two are inside"
            sleep(0.02)
            inside.release()
            journal.note(number)

    for number in range(6):
        work.send(number)
    start_worker(broker, threads=4)
    assert sorted(journal.wait_for(6)) == list(range(6))


def test_no_more_actors_than_allowed_run_in_a_window(
    open_broker, queue, start_worker, journal, limits, key
) -> None:
    broker = open_broker(Retries(max_retries=0))
    window = WindowRateLimiter(limits, key, limit=3, window=60)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        try:
            with window.acquire():
                journal.note("ran")
        except RateLimitExceeded:
            journal.note("refused")
            raise

    for _ in range(8):
        work.send()
    start_worker(broker, threads=4)
    assert sorted(journal.wait_for(8)) == ["ran"] * 3 + ["refused"] * 5


def test_actors_wait_for_each_other_at_a_barrier(
    broker, queue, start_worker, journal, limits, key
) -> None:
    barrier = Barrier(limits, key, ttl=20_000)
    assert barrier.create(parties=3)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("came")
        journal.note(barrier.wait(timeout=5_000))

    start_worker(broker, threads=3)
    for _ in range(2):
        work.send()
    journal.wait_for(2)
    assert journal.stays_at(2)
    work.send()
    assert journal.wait_for(6)[3:] == [True] * 3
