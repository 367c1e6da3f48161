"""What every broker promises about queues and messages: the same tests for four of them.

What Dramatiq's own brokers do not keep of it stands in `contract/promises.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from time import monotonic

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import Middleware, MiddlewareError

from tests.brokers.contract.promises import UNKEPT
from tests.brokers.contract.support import (
    FAR_FUTURE_MS,
    Recorder,
    is_empty,
    message_for,
    put,
    take,
    take_one,
)


def test_every_unkept_promise_is_a_test_and_none_of_them_is_ours() -> None:
    files = Path(__file__).parent.glob("test_broker_contract*.py")
    tests = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert set(UNKEPT) <= tests
    assert [test for test, vendors in UNKEPT.items() if "nats" in vendors] == []


# --- declaring


def test_declaring_a_queue_needs_no_server(vendor, queue) -> None:
    broker = vendor.open_without_server()
    broker.declare_queue(queue)
    assert queue in broker.get_declared_queues()
    vendor.release(broker)


def test_a_queue_is_declared_once_however_often_it_is_asked_for(open_broker, queue, journal):
    broker = open_broker(Recorder(journal, "before_declare_queue", "after_declare_queue"))
    for _ in range(3):
        broker.declare_queue(queue)
    assert journal.entries == ["before_declare_queue", "after_declare_queue"]


def test_a_queue_is_known_when_its_declaration_is_told(open_broker, queue, journal) -> None:
    class Asking(Middleware):
        def after_declare_queue(self, broker, queue_name):
            journal.note(queue_name in broker.get_declared_queues())

    open_broker(Asking()).declare_queue(queue)
    assert journal.entries == [True]


def test_each_declared_delay_queue_is_told_once(open_broker, queue, journal) -> None:
    class Listening(Middleware):
        def after_declare_delay_queue(self, broker, queue_name):
            journal.note(queue_name)

    broker = open_broker(Listening())
    for _ in range(2):
        broker.declare_queue(queue)
    assert journal.entries == list(broker.get_declared_delay_queues())


def test_queues_whose_names_differ_by_anything_are_different(broker, queue, consume) -> None:
    names = [queue, f"{queue}.b", f"{queue}-b", f"{queue}_b", f"{queue}.B", queue.upper()]
    for name in names:
        put(broker, name, name)
    for name in names:
        consumer = consume(broker, name, prefetch=3)
        assert take_one(consumer).args == (name,)
        assert is_empty(consumer)


# --- sending


@pytest.mark.parametrize("delay", [None, 0, 50, 1200])
def test_enqueue_returns_the_message_as_its_consumer_sees_it(broker, queue, consume, delay) -> None:
    message = put(broker, queue, 1, delay=delay)
    assert take_one(consume(broker, message.queue_name)) == message


def test_ids_arguments_and_options_arrive_as_they_were_sent(broker, queue, consume) -> None:
    anything = {"text": "ümläut \u2028 \x00", "number": -1.5, "list": [1, None, True], "more": {}}
    sent = Message(
        queue_name=queue,
        actor_name="an.actor",
        args=(1, "zwei", anything),
        kwargs={"deep": anything},
        options={"mine": anything, "max_retries": 3},
        message_timestamp=1_234_567_890_123,
    )
    before = sent.copy()
    broker.declare_queue(queue)
    broker.enqueue(sent)
    got = take_one(consume(broker, queue))
    assert sent == before, "enqueue has changed the message of its caller"
    assert (got.message_id, got.message_timestamp) == (sent.message_id, sent.message_timestamp)
    assert (got.actor_name, got.args, got.kwargs) == (sent.actor_name, sent.args, sent.kwargs)
    assert got.options.items() >= sent.options.items()


def test_a_message_from_a_consumer_can_be_sent_again(broker, queue, consume) -> None:
    """As `Retries` does, before the first one is acknowledged."""
    sent = put(broker, queue, 1)
    consumer = consume(broker, queue, prefetch=2)
    first = take_one(consumer)
    broker.enqueue(first)
    consumer.ack(first)
    again = take_one(consumer)
    assert (again.message_id, again.args) == (sent.message_id, (1,))


def test_two_messages_with_one_id_are_two_messages(broker, queue, consume) -> None:
    message = message_for(queue)
    broker.declare_queue(queue)
    for _ in range(2):
        broker.enqueue(message)
    consumer = consume(broker, queue, prefetch=2)
    assert [each.message_id for each in take(consumer, 2)] == [message.message_id] * 2


def test_messages_come_in_the_order_in_which_they_were_sent(broker, queue, consume) -> None:
    for number in range(20):
        put(broker, queue, number)
    consumer = consume(broker, queue, prefetch=20)
    assert [message.args[0] for message in take(consumer, 20)] == list(range(20))


def test_a_message_for_a_queue_nobody_declared_is_refused_or_kept(broker, queue, consume) -> None:
    try:
        broker.enqueue(message_for(queue, 1))
    except QueueNotFound:
        return
    assert take_one(consume(broker, queue)).args == (1,)


# --- hooks


def test_the_hooks_of_enqueue_see_the_message_and_its_delay(open_broker, queue, journal) -> None:
    class Listening(Middleware):
        def before_enqueue(self, broker, message, delay):
            journal.note(("before", message.message_id, delay))

        def after_enqueue(self, broker, message, delay):
            journal.note(("after", message.message_id, delay))

    broker = open_broker(Listening())
    for delay in (None, 0, FAR_FUTURE_MS):
        message_id = put(broker, queue, delay=delay).message_id
        assert journal.entries[-2:] == [
            ("before", message_id, delay),
            ("after", message_id, delay),
        ]


@pytest.mark.parametrize("delay", [None, 0, 50])
def test_a_middleware_can_refuse_a_message(open_broker, queue, journal, consume, delay) -> None:
    class Refused(MiddlewareError):
        pass

    class Refusing(Middleware):
        def before_enqueue(self, broker, message, delay):
            raise Refused("not this one")

    refusing = open_broker(Refusing(), Recorder(journal, "after_enqueue"))
    with pytest.raises(Refused, match="not this one"):
        put(refusing, queue, delay=delay)
    assert journal.entries == []
    assert is_empty(consume(refusing, queue))


# --- delays


@pytest.mark.parametrize("delay", [0, 300, 1200])
def test_a_delayed_message_runs_when_it_is_due_and_not_before(
    broker, queue, start_worker, journal, delay
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note(monotonic())

    start_worker(broker)
    sent = monotonic()
    work.send_with_options(delay=delay)
    [ran] = journal.wait_for(1)
    assert delay / 1000 - 0.01 <= ran - sent < delay / 1000 + 1
    assert journal.stays_at(1)


def test_messages_of_the_far_future_do_not_hold_up_one_that_is_due(
    broker, queue, start_worker, journal
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(what):
        journal.note(what)

    for _ in range(5):
        work.send_with_options(args=("later",), delay=FAR_FUTURE_MS)
    start_worker(broker, delay_prefetch=5)
    work.send_with_options(args=("now",), delay=1_000)
    assert journal.wait_for(1, timeout=2) == ["now"]


def test_a_delayed_message_survives_the_worker_that_waits_for_it(
    broker, queue, start_worker, journal
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("ran")

    first = start_worker(broker)
    work.send_with_options(delay=1_200)
    first.stop()
    start_worker(broker)
    assert journal.wait_for(1, timeout=3) == ["ran"]
    assert journal.stays_at(1)
