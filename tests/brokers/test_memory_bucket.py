"""The bucket without a server keeps the promises that the real one keeps to job records."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from brokers.nats.buckets import Bucket
from brokers.nats.errors import ConnectionClosed, ConnectionFailed, RevisionConflict
from tests.brokers.interleaving import Actor, Fate
from tests.brokers.kv_tools import Wires
from tests.brokers.memory_bucket import MemoryBucket

AnyBucket = Any


@pytest.fixture(params=["memory", "nats"])
def bucket(request: pytest.FixtureRequest) -> Iterator[AnyBucket]:
    if request.param == "memory":
        yield MemoryBucket(history=3)
        return
    connection = request.getfixturevalue("connection")
    bucket = Bucket(connection, f"b{uuid.uuid4().hex[:8]}", history=3)
    yield bucket
    bucket.close()


def test_what_was_never_set_has_no_value_and_revision_0(bucket) -> None:
    entry = bucket.get("k")
    assert (entry.value, entry.revision) == (None, 0)
    assert bucket.history("k") == []


def test_revisions_grow_over_all_keys(bucket) -> None:
    assert [bucket.put(key, b"1") for key in "aba"] == [1, 2, 3]
    assert [bucket.get(key).revision for key in "ab"] == [3, 2]


def test_a_write_is_refused_unless_it_names_the_last_revision(bucket) -> None:
    first = bucket.put("k", b"1", expected=0)
    second = bucket.put("k", b"2", expected=first)
    for stale in (0, first, second + 1):
        with pytest.raises(RevisionConflict):
            bucket.put("k", b"3", expected=stale)
    entry = bucket.get("k")
    assert (entry.value, entry.revision) == (b"2", second)


def test_what_is_created_is_not_written_over(bucket) -> None:
    bucket.put("a", b"first")
    bucket.create_many([("a", b"second"), ("b", b"second"), ("b", b"third")])
    assert [bucket.get(key).value for key in "ab"] == [b"first", b"second"]


def test_the_history_is_the_last_revisions_in_order(bucket) -> None:
    for number in range(5):
        bucket.put("k", str(number).encode())
        bucket.put("other", b"")
    entries = bucket.history("k")
    assert [(entry.value, entry.revision) for entry in entries] == [
        (b"2", 5),
        (b"3", 7),
        (b"4", 9),
    ]


def test_what_is_erased_is_gone_with_all_below_it_and_can_be_created_again(bucket) -> None:
    bucket.create_many([(("a", "x", "0"), b"1"), (("a", "x", "1"), b"2"), (("a", "y", "0"), b"3")])
    bucket.erase(("a", "x"))
    assert [bucket.get(("a", *rest)).value for rest in (("x", "0"), ("x", "1"), ("y", "0"))] == [
        None,
        None,
        b"3",
    ]
    bucket.create_many([(("a", "x", "0"), b"4")])
    assert bucket.get(("a", "x", "0")).value == b"4"


@pytest.fixture(params=["memory", "nats"])
def losing(request: pytest.FixtureRequest, monkeypatch) -> Iterator[tuple[AnyBucket, Callable]]:
    """A bucket, and `put` whose first answer is lost, after which `meanwhile` is called."""
    if request.param == "memory":
        memory = MemoryBucket(history=3)

        def put(value: bytes, expected: int, meanwhile: Callable[[], object]) -> int:
            actor = Actor("a", lambda: memory.put("k", value, expected=expected))
            actor.step(Fate.ANSWER_LOST)
            meanwhile()
            actor.finish()
            if actor.error:
                raise actor.error
            return int(actor.result)

        yield memory, put
        return
    connection = request.getfixturevalue("connection")
    wires = Wires(connection, monkeypatch)
    bucket = Bucket(connection, f"b{uuid.uuid4().hex[:8]}", history=3)
    write = bucket.write

    def put_and_lose(value: bytes, expected: int, meanwhile: Callable[[], object]) -> int:
        wires.lose_answer_to = lambda frames: frames.startswith(b"HPUB $KV") and value in frames
        calls: list[int] = []

        def write_again(*arguments: Any) -> int:
            calls.append(1)
            if len(calls) == 2:
                bucket.write = write
                meanwhile()
            return write(*arguments)

        bucket.write = write_again
        return bucket.put("k", value, expected=expected)

    yield bucket, put_and_lose
    bucket.close()


def test_a_write_whose_answer_is_lost_is_stored_once(losing) -> None:
    bucket, put = losing
    revision = put(b"mine", 0, lambda: None)
    assert [(entry.value, entry.revision) for entry in bucket.history("k")] == [(b"mine", 1)]
    assert revision == 1


def test_a_write_whose_answer_is_lost_is_a_conflict_when_another_has_followed(losing) -> None:
    bucket, put = losing
    with pytest.raises(RevisionConflict):
        put(b"mine", 0, lambda: bucket.put("k", b"theirs", expected=1))
    assert [entry.value for entry in bucket.history("k")] == [b"mine", b"theirs"]


def test_patience_ends(own_server) -> None:
    from brokers.nats.connection import NatsConnection

    connection = NatsConnection(own_server.url)
    real, memory = Bucket(connection, "b"), MemoryBucket()
    real.put("k", b"1")
    own_server.kill()
    memory.away = True
    for bucket in (real, memory):
        with pytest.raises((ConnectionClosed, ConnectionFailed)):
            bucket.get("k", patience=0.0)
        with pytest.raises((ConnectionClosed, ConnectionFailed)):
            bucket.put("k", b"2", expected=1, patience=0.0)
    real.close()
    connection.close()
