"""What becomes of messages that cannot be dead-lettered, read, or told from the server's words."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from dramatiq import Message

from brokers.embedded import EmbeddedNats
from brokers.nats import NatsBroker
from brokers.nats.errors import JetStreamError, QueueFull


@pytest.fixture
def broker(nats_server: EmbeddedNats) -> Iterator[NatsBroker]:
    broker = NatsBroker(url=nats_server.url, namespace=f"s{uuid.uuid4().hex[:8]}", middleware=[])
    broker.declare_queue("q")
    broker.declare_now("q")
    yield broker
    broker.close()


def message() -> Message:
    return Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={})


def refuse(*_: object) -> None:
    raise QueueFull("no room for dead letters")


def test_a_message_that_cannot_be_dead_lettered_is_let_go_and_comes_back(broker, monkeypatch):
    broker.enqueue(message())
    consumer = broker.consume("q", timeout=5_000)
    held = next(consumer)
    monkeypatch.setattr(broker._publisher, "publish", refuse)
    with pytest.raises(JetStreamError):
        consumer.nack(held)
    assert not broker.held
    assert broker.get_queue_stats()["q"].in_flight == 1
    consumer.close()


def test_bytes_that_cannot_be_read_nor_dead_lettered_are_let_go(broker, connection, monkeypatch):
    connection.publish(broker.names.lane("q", 0), b"[1]")
    monkeypatch.setattr(broker._publisher, "publish", refuse)
    consumer = broker.consume("q", timeout=1_000)
    assert next(consumer) is None
    assert not broker.held
    assert broker.get_queue_stats()["q"].in_flight == 1
    consumer.close()


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b"\xff", b'{"args": 5}'])
def test_bytes_that_are_no_message_become_a_dead_letter(broker, connection, data):
    connection.publish(broker.names.lane("q", 0), data)
    consumer = broker.consume("q", timeout=1_000)
    assert next(consumer) is None
    [letter] = broker.get_dead_letters("q")
    assert (letter.message, letter.data) == (None, data)
    consumer.close()


@pytest.mark.parametrize("status", ["404 No Messages", "409 Consumer Deleted", "100 Idle"])
def test_a_message_whose_sender_made_up_a_status_is_a_message(broker, connection, status):
    data = message().encode()
    head = f"NATS/1.0 {status}\r\n\r\n".encode()
    line = f"HPUB {broker.names.lane('q', 0)} {len(head)} {len(head) + len(data)}\r\n"
    with connection.open_wire() as wire:
        wire.send(line.encode() + head + data + b"\r\n")
        wire.settle(5)
    consumer = broker.consume("q", timeout=5_000)
    received = next(consumer)
    assert received is not None
    consumer.ack(received)
    consumer.close()
    assert broker.get_queue_stats()["q"].unfinished == 0
