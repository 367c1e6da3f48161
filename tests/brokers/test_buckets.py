"""A bucket by itself; results, rate limits and job records test it as well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from brokers.nats.buckets import Bucket
from brokers.nats.errors import RevisionConflict
from tests.brokers.kv_tools import Wires


@pytest.fixture
def wires(connection, monkeypatch) -> Wires:
    return Wires(connection, monkeypatch)


@pytest.fixture
def bucket(connection, wires) -> Iterator[Bucket]:
    bucket = Bucket(connection, f"b{uuid.uuid4().hex[:8]}")
    yield bucket
    bucket.close()


def test_a_write_names_the_revision_before_it(bucket) -> None:
    first = bucket.put("k", b"1", expected=0)
    second = bucket.put("k", b"2", expected=first)
    for stale in (0, first):
        with pytest.raises(RevisionConflict):
            bucket.put("k", b"3", expected=stale)
    assert bucket.get("k").value == b"2"
    assert bucket.get("k").revision == second


def test_a_write_whose_answer_is_lost_is_no_conflict_with_itself(bucket, wires) -> None:
    wires.lose_answer_to = lambda frames: frames.startswith(b"HPUB $KV")
    revision = bucket.put("k", b"1", expected=0)
    assert bucket.get("k").revision == revision == 1


def test_what_was_deleted_has_no_value_and_can_be_set_again(bucket) -> None:
    bucket.put("k", b"1")
    bucket.delete("k")
    bucket.delete("never there")
    entry = bucket.get("k")
    assert entry.value is None
    bucket.put("k", b"2", expected=entry.revision)
    assert bucket.get("k").value == b"2"


def test_a_value_may_be_empty(bucket) -> None:
    bucket.put("k", b"")
    assert bucket.get("k").value == b""
    assert bucket.get("other").value is None


def test_keys_are_listed_encoded(bucket) -> None:
    for key in ("a", "a b", ("a", "notice")):
        bucket.put(key, b"1")
    assert sorted(bucket.keys()) == ["a", "a.notice", "a=20b"]
