"""What every broker promises to those who read from a queue: the same tests for four of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic, thread_time

import pytest
from dramatiq.errors import BrokerConnectionError, QueueNotFound

from tests.brokers.contract.support import (
    FAR_FUTURE_MS,
    Garbled,
    is_empty,
    message_for,
    put,
    take,
    take_one,
    until,
)

# --- waiting


def test_an_idle_consumer_gives_up_after_its_timeout_and_not_before(broker, queue, consume) -> None:
    broker.declare_queue(queue)
    consumer = consume(broker, queue, timeout=400)
    began, computed = monotonic(), thread_time()
    assert next(consumer) is None
    assert 0.38 <= monotonic() - began < 0.8
    assert thread_time() - computed < 0.1, "it did not sleep"


def test_a_full_consumer_waits_too(broker, queue, consume) -> None:
    for _ in range(2):
        put(broker, queue)
    consumer = consume(broker, queue, prefetch=1, timeout=400)
    take_one(consumer)
    began, computed = monotonic(), thread_time()
    assert next(consumer) is None
    assert 0.38 <= monotonic() - began < 0.8
    assert thread_time() - computed < 0.1, "it did not sleep"


def test_a_waiting_consumer_gets_a_message_at_once(broker, queue, consume) -> None:
    broker.declare_queue(queue)
    consumer = consume(broker, queue, timeout=5_000)
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(take_one, consumer)
        sent = monotonic()
        put(broker, queue, 1)
        assert taken.result().args == (1,)
        assert monotonic() - sent < 1


def test_consuming_from_a_queue_nobody_declared_is_refused_or_works(broker, queue, consume) -> None:
    try:
        consumer = consume(broker, queue)
    except QueueNotFound:
        return
    put(broker, queue, 1)
    assert take_one(consumer).args == (1,)


# --- prefetch


def test_no_more_is_handed_out_than_the_prefetch_allows(broker, queue, consume) -> None:
    for number in range(5):
        put(broker, queue, number)
    consumer = consume(broker, queue, prefetch=2)
    first, second = take(consumer, 2)
    assert is_empty(consumer)
    consumer.ack(first)
    third = take_one(consumer)
    assert is_empty(consumer)
    consumer.nack(second)
    assert take_one(consumer).args == (3,)
    assert is_empty(consumer)
    assert third.args == (2,)


def test_a_consumer_keeps_nothing_from_others_beyond_its_prefetch(broker, queue, consume) -> None:
    for number in range(5):
        put(broker, queue, number)
    full = consume(broker, queue, prefetch=2)
    take(full, 2)
    assert [message.args[0] for message in take(consume(broker, queue, prefetch=5), 3)] == [2, 3, 4]


def test_a_consumer_that_closes_hands_back_what_it_had_not_handed_out(
    broker, queue, consume
) -> None:
    for number in range(5):
        put(broker, queue, number)
    consumer = consume(broker, queue, prefetch=5)
    consumer.ack(take_one(consumer))
    consumer.close()
    others = take(consume(broker, queue, prefetch=5), 4, timeout=2)
    assert sorted(message.args[0] for message in others) == [1, 2, 3, 4]


# --- verdicts


def test_an_acknowledged_message_is_gone(broker, queue, consume, vendor) -> None:
    put(broker, queue)
    consumer = consume(broker, queue)
    consumer.ack(take_one(consumer))
    consumer.close()
    assert is_empty(consume(broker, queue))
    assert vendor.dead_letters(broker, queue) == []
    broker.join(queue, timeout=3_000)


def test_many_threads_may_acknowledge_at_once(broker, queue, consume) -> None:
    for number in range(64):
        put(broker, queue, number)
    consumer = consume(broker, queue, prefetch=64)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(consumer.ack, take(consumer, 64)))
    consumer.close()
    assert is_empty(consume(broker, queue))


def test_a_rejected_message_becomes_a_dead_letter(broker, queue, consume, vendor) -> None:
    sent = put(broker, queue, "kept")
    consumer = consume(broker, queue)
    consumer.nack(take_one(consumer))
    consumer.close()
    assert vendor.dead_letters(broker, queue) == [sent]
    assert is_empty(consume(broker, queue))


def test_a_rejected_delayed_message_becomes_a_dead_letter_of_its_queue(
    broker, queue, consume, vendor
) -> None:
    sent = put(broker, queue, "kept", delay=50)
    consumer = consume(broker, sent.queue_name)
    consumer.nack(take_one(consumer))
    consumer.close()
    dead = vendor.dead_letters(broker, queue)
    assert [each.message_id for each in dead] == [sent.message_id]


@pytest.mark.parametrize("verdict", ["ack", "nack"])
def test_a_verdict_counts_after_its_consumer_was_closed(
    broker, queue, consume, vendor, verdict
) -> None:
    """A worker that pauses closes its consumers while actors still run."""
    sent = put(broker, queue)
    consumer = consume(broker, queue)
    message = take_one(consumer)
    consumer.close()
    getattr(consumer, verdict)(message)
    assert is_empty(consume(broker, queue))
    dead = vendor.dead_letters(broker, queue)
    assert [each.message_id for each in dead] == [sent.message_id] * (verdict == "nack")


def test_a_requeued_message_goes_to_another_consumer_at_once(broker, queue, consume) -> None:
    sent = put(broker, queue, 1)
    first = consume(broker, queue)
    other = consume(broker, queue)
    first.requeue(each for each in [take_one(first)])
    first.close()
    assert take_one(other, timeout=1) == sent


def test_a_message_can_be_requeued_while_its_consumer_goes_on(broker, queue, consume) -> None:
    sent = put(broker, queue, 1)
    consumer = consume(broker, queue)
    consumer.requeue([take_one(consumer)])
    assert take_one(consumer, timeout=1) == sent


def test_requeueing_nothing_is_no_error(broker, queue, consume) -> None:
    broker.declare_queue(queue)
    consume(broker, queue).requeue(each for each in [])


def test_a_consumer_may_be_closed_twice(broker, queue, consume) -> None:
    """The second time it may say that its connection is closed, which Dramatiq expects."""
    broker.declare_queue(queue)
    consumer = consume(broker, queue)
    consumer.close()
    with suppress(BrokerConnectionError):
        consumer.close()


# --- what is no message


def test_what_cannot_be_decoded_is_a_dead_letter_and_the_next_one_is_read(
    broker, queue, consume, vendor
) -> None:
    broker.declare_queue(queue)
    broker.enqueue(Garbled(queue, "work", (), {}, {}))
    good = put(broker, queue, 1)
    consumer = consume(broker, queue)
    assert take_one(consumer) == good
    consumer.close()
    until(lambda: vendor.dead_letters(broker, queue) == [None], "it is among the dead letters")


def test_what_cannot_be_decoded_takes_no_place_of_the_prefetch(broker, queue, consume) -> None:
    broker.declare_queue(queue)
    consumer = consume(broker, queue, prefetch=2)
    for _ in range(3):
        broker.enqueue(Garbled(queue, "work", (), {}, {}))
    for number in range(2):
        broker.enqueue(message_for(queue, number))
    assert [message.args[0] for message in take(consumer, 2)] == [0, 1]


# --- several at once


def test_consumers_share_a_queue_and_get_each_message_once(broker, queue, consume) -> None:
    consumers = [consume(broker, queue, prefetch=3) for _ in range(4) if put(broker, queue)]
    for _ in range(36):
        put(broker, queue)
    seen, lock = [], threading.Lock()

    def drain(consumer) -> None:
        while (message := next(consumer)) is not None or len(seen) < 40:
            if message is not None:
                with lock:
                    seen.append(message.message_id)
                consumer.ack(message)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(drain, consumers))
    assert len(seen) == len(set(seen)) == 40


def test_a_message_that_is_held_is_nobody_elses(broker, queue, consume) -> None:
    put(broker, queue, delay=None)
    put(broker, queue, delay=FAR_FUTURE_MS)
    take_one(consume(broker, queue))
    assert is_empty(consume(broker, queue))
