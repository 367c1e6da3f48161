"""Questions to workers, and what silence means."""

from __future__ import annotations

import uuid
from time import monotonic

import pytest

from brokers import control
from brokers.control import Control
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed


def test_a_worker_answers_for_what_it_runs(connection) -> None:
    worker = uuid.uuid4().hex
    Control(connection).listen(worker, lambda _: None, lambda *asked: asked == ("job", 2))
    asking = Control(connection)
    assert asking.holds(worker, "job", 2)
    assert not asking.holds(worker, "job", 1)
    assert not asking.holds(worker, "another", 2)


def test_a_worker_that_does_not_answer_is_gone(connection) -> None:
    assert not Control(connection).holds(uuid.uuid4().hex, "job", 1)


def test_silence_means_nothing_when_nats_was_away(own_server, monkeypatch) -> None:
    """The worker may be looking for NATS still, while others have found it."""
    connection = NatsConnection(own_server.url)
    asking = Control(connection)
    assert not asking.holds("w", "job", 1)
    own_server.restart()
    deadline = monotonic() + 30
    while True:
        try:
            held = asking.holds("w", "job", 1)
            break
        except ConnectionClosed:
            assert monotonic() < deadline
    assert held
    monkeypatch.setattr(control, "REJOIN_SECONDS", 0.0)
    assert not asking.holds("w", "job", 1)
    connection.close()


def test_who_is_cut_off_itself_learns_nothing_from_silence(own_server) -> None:
    connection = NatsConnection(own_server.url)
    asking = Control(connection)
    assert not asking.holds("w", "job", 1)
    own_server.kill()
    deadline = monotonic() + 30
    while connection.connected:
        assert monotonic() < deadline
    with pytest.raises(ConnectionClosed):
        asking.holds("w", "job", 1)
    connection.close()
