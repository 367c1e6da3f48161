"""The changes of a bucket, read as a read model reads them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from brokers import record_feed
from brokers.nats.buckets import Bucket
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import BrokerError, NobodyAnswers
from brokers.record_feed import Change, RecordFeed, Tail

SECONDS = 20.0


@pytest.fixture
def bucket(connection) -> Iterator[Bucket]:
    bucket = Bucket(connection, f"T{uuid.uuid4().hex}", history=64)
    yield bucket
    bucket.close()


@pytest.fixture
def feed(connection, bucket) -> Iterator[RecordFeed]:
    feed = RecordFeed(connection, bucket.stream)
    yield feed
    feed.close()


def take(tail: Tail, count: int) -> list[Change]:
    found, deadline = list[Change](), monotonic() + SECONDS
    while len(found) < count and monotonic() < deadline:
        found += tail.next(1.0)
    return found


def test_a_first_look_has_the_last_revision_of_each_key_and_what_comes_later(bucket, feed) -> None:
    for key, value in (("a", b"1"), ("b", b"1"), ("a", b"2")):
        bucket.put(key, value)
    with feed.tail(0) as tail:
        assert tail.pending == 2
        assert take(tail, 2) == [Change(2, "b", b"1"), Change(3, "a", b"2")]
        bucket.put("a", b"3")
        bucket.delete("b")
        assert take(tail, 2) == [Change(4, "a", b"3"), Change(5, "b", None)]


def test_a_later_look_goes_on_behind_the_last_change(bucket, feed) -> None:
    for number in range(5):
        bucket.put("a", b"%d" % number)
    with feed.tail(3) as tail:
        assert [change.sequence for change in take(tail, 2)] == [4, 5]


def test_many_changes_come_in_order_through_many_pulls(bucket, feed, monkeypatch) -> None:
    monkeypatch.setattr(record_feed, "BATCH", 7)
    for number in range(100):
        bucket.put(f"k{number}", b"")
    with feed.tail(1) as tail:
        assert [change.sequence for change in take(tail, 99)] == list(range(2, 101))


def test_a_pull_that_has_expired_is_repeated(bucket, feed, monkeypatch) -> None:
    bucket.put("a", b"1")
    monkeypatch.setattr(record_feed, "PULL_SECONDS", 0.1)
    monkeypatch.setattr(record_feed, "HEARTBEAT_SECONDS", 0.04)
    with feed.tail(1) as tail:
        for _ in range(5):
            assert tail.next(0.2) == []
        bucket.put("a", b"2")
        assert take(tail, 1) == [Change(2, "a", b"2")]


def test_the_state_of_the_stream_is_known(bucket, feed) -> None:
    bucket.put("a", b"1")
    bucket.put("b", b"1")
    state = feed.state()
    assert (state.first, state.last) == (1, 2)
    assert state.created
    assert feed.state() == state


def test_a_stream_that_is_not_there_is_told(connection) -> None:
    with pytest.raises(NobodyAnswers):
        RecordFeed(connection, "KV_T-missing").state()


def of_server(connection: NatsConnection, bucket: Bucket, verb: str) -> None:
    async def act() -> Any:
        jetstream = connection.jetstream
        if verb == "stream":
            return await jetstream.delete_stream(bucket.stream)
        (consumer,) = await jetstream.consumers_info(bucket.stream)
        return await jetstream.delete_consumer(bucket.stream, consumer.name)

    connection.run(act())


@pytest.mark.parametrize("what", ["stream", "consumer"])
def test_a_tail_ends_with_what_it_reads_from(connection, bucket, feed, what) -> None:
    bucket.put("a", b"1")
    with feed.tail(1) as tail:
        assert tail.next(0.1) == []
        of_server(connection, bucket, what)
        with pytest.raises(BrokerError):
            while True:
                tail.next(SECONDS)


def test_a_tail_ends_with_its_server(own_server) -> None:
    connection = NatsConnection(own_server.url)
    bucket = Bucket(connection, "T")
    bucket.put("a", b"1")
    feed = RecordFeed(connection, bucket.stream)
    with feed.tail(1) as tail:
        own_server.kill()
        with pytest.raises(BrokerError):
            while True:
                tail.next(SECONDS)
    connection.close()


def test_a_consumer_is_gone_with_its_tail(connection, bucket, feed) -> None:
    bucket.put("a", b"1")
    with feed.tail(0) as tail:
        assert take(tail, 1)

    async def consumers() -> int:
        return len(await connection.jetstream.consumers_info(bucket.stream))

    for _ in range(100):
        if not connection.run(consumers()):
            break
    assert connection.run(consumers()) == 0
