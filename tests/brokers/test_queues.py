"""Queues looked at from outside: counts, dead letters, bounds."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import dramatiq
import pytest
from dramatiq import Message

from brokers.nats import LaneStats, NatsBroker, QueueStats
from brokers.nats.connection import NatsConnection


@pytest.fixture
def broker(nats_server) -> Iterator[NatsBroker]:
    broker = NatsBroker(url=nats_server.url, namespace=f"t{uuid.uuid4().hex[:8]}", max_priority=2)
    yield broker
    broker.close()


def message(queue: str = "q", **options: object) -> Message:
    return Message(queue_name=queue, actor_name="a", args=(1,), kwargs={}, options=options)


def bury(broker: NatsBroker, count: int = 1, **options: object) -> list[Message]:
    """Dead letters; their messages."""
    broker.declare_queue("q")
    consumer = broker.consume("q", prefetch=count, timeout=5_000)
    sent = [broker.enqueue(message(**options)) for _ in range(count)]
    for _ in range(count):
        held = next(consumer)
        held.stuff_exception(ValueError("broken\nin two lines"))
        consumer.nack(held)
    consumer.close()
    return sent


def test_each_priority_tells_what_waits_and_since_when(broker) -> None:
    broker.declare_queue("q")
    nothing = [LaneStats(2), LaneStats(1), LaneStats(0)]
    assert broker.get_lane_stats("q") == nothing
    for priority in (0, 2, 2, 0):
        broker.enqueue(message(broker_priority=priority))
    high, middle, low = broker.get_lane_stats("q")
    assert [(lane.priority, lane.ready) for lane in (high, middle, low)] == [(2, 2), (1, 0), (0, 2)]
    assert low.oldest < high.oldest
    assert middle.oldest == ""
    assert abs((datetime.now(UTC) - datetime.fromisoformat(low.oldest)).total_seconds()) < 60


def test_what_a_worker_holds_is_not_the_oldest_that_waits(broker) -> None:
    broker.declare_queue("q")
    for _ in range(2):
        broker.enqueue(message(broker_priority=2))
    first = broker.get_lane_stats("q")[0].oldest
    consumer = broker.consume("q", prefetch=1, timeout=5_000)
    held = next(consumer)
    lane = broker.get_lane_stats("q")[0]
    assert (lane.ready, lane.in_flight) == (1, 1)
    assert lane.oldest > first
    consumer.ack(held)
    consumer.ack(next(consumer))
    assert broker.get_lane_stats("q")[0] == LaneStats(2)
    consumer.close()


def test_one_request_tells_of_every_queue(broker, monkeypatch) -> None:
    for queue in ("q", "q.more", "q-more"):
        broker.declare_queue(queue)
    for priority in range(3):
        broker.enqueue(message(broker_priority=priority))
    broker.enqueue(message(), delay=60_000)
    broker.enqueue(message("q.more"))
    consumer = broker.consume("q", prefetch=1, timeout=5_000)
    held = next(consumer)
    requests = []
    works = NatsConnection.patiently
    monkeypatch.setattr(
        NatsConnection,
        "patiently",
        lambda *args, **more: requests.append(1) or works(*args, **more),
    )
    assert broker.get_queue_stats() == {
        "q": QueueStats(ready=2, in_flight=1, delayed=1, dead=0),
        "q.more": QueueStats(ready=1),
        "q-more": QueueStats(),
    }
    assert len(requests) == 1
    consumer.nack(held)
    assert broker.get_queue_message_counts("q")[1:] == (1, 1)
    assert broker.get_queue_stats()["q"].unfinished == 3
    consumer.close()


def test_more_queues_than_fit_on_a_page_are_all_counted(broker) -> None:
    queues = [f"q{number}" for number in range(60)]
    for queue in queues:
        broker.declare_queue(queue)
    broker.declare_now()
    for queue in queues:
        broker.enqueue(message(queue))
    stats = broker.get_queue_stats()
    assert stats == {queue: QueueStats(ready=1) for queue in queues}


def test_a_namespace_that_nobody_has_used_counts_nothing(broker) -> None:
    assert broker.get_queue_message_counts("q") == (0, 0, 0)
    assert broker.get_dead_letters("q") == []
    broker.flush("q")
    broker.join("q", timeout=1_000)


def test_two_namespaces_on_one_server_do_not_meet(broker, nats_server) -> None:
    other = NatsBroker(url=nats_server.url, namespace=f"{broker.names.namespace}.x")
    broker.enqueue(message())
    other.enqueue(message())
    other.flush("q")
    assert broker.get_queue_message_counts("q") == (1, 0, 0)
    assert other.get_queue_message_counts("q") == (0, 0, 0)
    other.close()


def test_a_dead_letter_tells_when_and_why_in_one_line(broker) -> None:
    [sent] = bury(broker)
    [letter] = broker.get_dead_letters("q")
    assert letter.message == sent
    assert letter.reason == "ValueError: broken in two lines"
    assert letter.error == "ValueError: broken\nin two lines\n"
    assert letter.since.startswith("20")


def test_a_message_that_nearly_fills_what_the_server_takes_can_be_a_dead_letter(broker) -> None:
    large = Message(queue_name="q", actor_name="a", args=("x" * 1_048_150,), kwargs={}, options={})
    broker.declare_queue("q")
    consumer = broker.consume("q", timeout=5_000)
    broker.enqueue(large)
    held = next(consumer)
    held.stuff_exception(ValueError("short"))
    held._exception.__cause__ = ValueError("z" * 3_000)
    consumer.nack(held)
    [letter] = broker.get_dead_letters("q")
    assert (letter.message, letter.reason, letter.error) == (large, "ValueError: short", "")
    consumer.close()


def test_dead_letters_are_gone_after_their_time(nats_server) -> None:
    broker = NatsBroker(url=nats_server.url, namespace="mortal", dead_message_ttl=1.0)
    bury(broker)
    while broker.get_queue_message_counts("q")[2]:
        pass
    assert broker.get_dead_letters("q") == []
    broker.close()


def test_dead_letters_get_another_chance_with_nothing_held_against_them(broker) -> None:
    first, second = bury(broker, 2, retries=7, traceback="...", broker_priority=2, own="x")
    assert broker.requeue_dead_letters("q", [second.message_id]) == 1
    assert [letter.message for letter in broker.get_dead_letters("q")] == [first]
    consumer = broker.consume("q", timeout=5_000)
    revived = next(consumer)._message
    assert revived.message_timestamp >= second.message_timestamp
    expected = dataclasses.replace(second, options={"broker_priority": 2, "own": "x"})
    assert dataclasses.replace(revived, message_timestamp=expected.message_timestamp) == expected
    assert broker.requeue_dead_letters("q") == 1
    assert broker.get_queue_message_counts("q")[2] == 0
    consumer.close()


def test_bytes_that_are_no_message_stay_dead_and_can_be_looked_at(broker, nats_server) -> None:
    broker.declare_queue("q")
    consumer = broker.consume("q", timeout=2_000)
    connection = NatsConnection(nats_server.url)
    connection.publish(broker.names.lane("q", 0), b"\xff not a message")
    assert next(consumer) is None
    [letter] = broker.get_dead_letters("q")
    assert (letter.message, letter.data) == (None, b"\xff not a message")
    assert "DecodeError" in letter.reason
    assert broker.requeue_dead_letters("q") == 0
    connection.close()
    consumer.close()


def test_without_the_right_to_declare_the_broker_uses_what_is_there(broker, nats_server) -> None:
    broker.declare_queue("q")
    broker.declare_now()
    guest = NatsBroker(
        url=nats_server.url, namespace=broker.names.namespace, max_priority=2, declare=False
    )
    guest.declare_queue("q")
    sent = guest.enqueue(message())
    consumer = guest.consume("q", timeout=5_000)
    held = next(consumer)
    assert held.message_id == sent.message_id
    consumer.ack(held)
    guest.join("q", timeout=5_000)
    guest.close()


@pytest.mark.parametrize(
    "wrong",
    [{"ack_wait": 0.1}, {"max_priority": 10}, {"max_priority": -1}, {"confirm": "maybe"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_work_are_refused_by_name(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NatsBroker(**wrong)


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="not the URL") as caught:
        NatsBroker(url="redis://user:secret@localhost")
    assert "secret" not in str(caught.value)


def test_the_broker_is_told_apart_by_dramatiqs_own_lookup(broker) -> None:
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    assert broker.get_actor("a") is actor
    assert broker.get_declared_queues() == {"q"}
    assert broker.get_declared_delay_queues() == set()
