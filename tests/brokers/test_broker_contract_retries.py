"""Retries and callbacks on every broker: the same tests for four of them."""

from __future__ import annotations

from itertools import pairwise
from time import monotonic

import dramatiq
import pytest
from dramatiq import Retry
from dramatiq.middleware import Callbacks, Retries

from tests.brokers.contract.support import until


@pytest.fixture
def broker(open_broker):
    return open_broker(Callbacks(), Retries(max_retries=3, min_backoff=50, max_backoff=100))


@pytest.fixture
def assert_dead(broker, queue, vendor):
    """That nothing of the queue is dead but the message with this id."""

    def check(*message_ids) -> None:
        def dead() -> list[str]:
            return [letter.message_id for letter in vendor.dead_letters(broker, queue)]

        vendor.join(broker, queue)
        until(lambda: dead() == [*message_ids], "the dead letters are as expected")

    return check


def test_a_failed_message_is_run_again_until_it_succeeds(
    broker, queue, start_worker, journal, assert_dead
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("ran")
        if len(journal.entries) < 3:
            raise ValueError("not yet")

    start_worker(broker)
    work.send()
    journal.wait_for(3)
    assert journal.stays_at(3)
    assert_dead()


def test_a_message_that_goes_on_failing_is_dead_after_its_retries(
    broker, queue, start_worker, journal, assert_dead
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue, max_retries=2)
    def work():
        journal.note("ran")
        raise ValueError("never")

    start_worker(broker)
    sent = work.send()
    journal.wait_for(3)
    assert_dead(sent.message_id)
    assert journal.stays_at(3)


def test_no_retry_comes_before_its_backoff(broker, queue, start_worker, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue, min_backoff=100, max_backoff=10_000)
    def work():
        journal.note(monotonic())
        raise ValueError("never")

    start_worker(broker)
    work.send()
    gaps = [later - earlier for earlier, later in pairwise(journal.wait_for(4))]
    for gap, backoff in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert backoff - 0.01 <= gap < 2 * backoff + 0.8


def test_an_actor_can_ask_for_a_retry_after_a_time_of_its_own(
    broker, queue, start_worker, journal, assert_dead
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note(monotonic())
        if len(journal.entries) == 1:
            raise Retry("later", delay=1_100)

    start_worker(broker)
    work.send()
    first, second = journal.wait_for(2)
    assert 1.09 <= second - first < 2.1
    assert_dead()


def test_an_error_that_is_no_reason_to_retry_ends_the_message(
    broker, queue, start_worker, journal, assert_dead
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue, throws=(KeyError,))
    def work():
        journal.note("ran")
        raise KeyError("final")

    start_worker(broker)
    sent = work.send()
    journal.wait_for(1)
    assert_dead(sent.message_id)
    assert journal.stays_at(1)


def test_an_actor_decides_which_errors_are_retried(
    broker, queue, start_worker, journal, assert_dead
) -> None:
    def retry_when(retries, error):
        return retries < 1 and isinstance(error, ValueError)

    @dramatiq.actor(broker=broker, queue_name=queue, retry_when=retry_when)
    def work():
        journal.note("ran")
        raise ValueError("broken")

    start_worker(broker)
    sent = work.send()
    journal.wait_for(2)
    assert_dead(sent.message_id)
    assert journal.stays_at(2)


def test_somebody_is_told_when_the_retries_are_exhausted(
    broker, queue, start_worker, journal
) -> None:
    @dramatiq.actor(broker=broker, queue_name=f"{queue}.told")
    def told(message, about):
        journal.note((message["message_id"], message["args"], about))

    @dramatiq.actor(
        broker=broker, queue_name=queue, max_retries=1, on_retry_exhausted=told.actor_name
    )
    def work(number):
        raise ValueError("never")

    start_worker(broker)
    sent = work.send(7)
    assert journal.wait_for(1) == [(sent.message_id, [7], {"retries": 1, "max_retries": 1})]


def test_an_actor_is_told_of_success(broker, queue, start_worker, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=f"{queue}.told")
    def told(message, result):
        journal.note((message["message_id"], message["args"], result))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def double(number):
        return 2 * number

    start_worker(broker)
    sent = double.send_with_options(args=(21,), on_success=told)
    assert journal.wait_for(1) == [(sent.message_id, [21], 42)]


def test_an_actor_is_told_of_each_failure(broker, queue, start_worker, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=f"{queue}.told")
    def told(message, error):
        journal.note((message["message_id"], error))

    @dramatiq.actor(broker=broker, queue_name=queue, max_retries=1)
    def work():
        raise ValueError("broken")

    start_worker(broker)
    sent = work.send_with_options(on_failure=told)
    error = {"type": "ValueError", "message": "broken"}
    assert journal.wait_for(2) == [(sent.message_id, error)] * 2
    assert journal.stays_at(2)
