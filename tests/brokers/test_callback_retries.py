"""The outbox of callbacks, on a real server: what becomes of those that fail."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from brokers import subjects
from brokers.callbacks.backoff import Backoff
from brokers.callbacks.messages import Callback, CallbackKind
from brokers.embedded import EmbeddedNats
from brokers.nats.errors import ConnectionClosed
from tests.brokers.old_servers import fetch_server
from tests.brokers.outboxes import (
    AGAIN,
    DELIVERED,
    NEVER,
    Receiver,
    Record,
    Site,
    running,
)
from tests.conftest import unavailable


@pytest.fixture
def site(nats_server: EmbeddedNats) -> Iterator[Site]:
    site = Site(nats_server.url)
    yield site
    site.close()


def test_nothing_is_told_of_a_job_that_has_no_callbacks(site: Site) -> None:
    record = site.job(callbacks=False)
    site.queue.ended(record)
    site.queue.changed(record)
    site.queue.ended(Record())  # it has, but they are not known any more

    assert site.queue.dead() == []
    assert site.broker.get_queue_message_counts(subjects.CALLBACK_QUEUE) == (0, 0, 0)


def test_what_fails_is_tried_again_and_counted(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(AGAIN, ValueError("a bug"), DELIVERED)
    site.queue.ended(record)
    with running(site.queue, receiver):
        came = [receiver.next() for _ in range(3)]
        site.idle()
    assert [each.number for each in came] == [1, 2, 3]
    assert len({each.callback.id for each in came}) == 1
    assert receiver.came.empty() and site.queue.dead() == []


def test_a_pause_of_more_than_a_second_is_kept_by_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "pause", lambda self, tries: 1.2)
    record, receiver = site.job(logs=""), Receiver(AGAIN, DELIVERED)
    site.queue.ended(record)
    with running(site.queue, receiver):
        receiver.next()
        began = time.monotonic()
        receiver.next()
        assert time.monotonic() - began > 1.0
        site.idle()


def test_a_pause_ends_although_the_clock_was_set_back_meanwhile(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(DELIVERED)
    callback = Callback.of(CallbackKind.STATUS, record, record.finished_at)
    in_an_hour = int((time.time() + 3600.0) * 1000)
    site.broker.enqueue(callback.message().copy(options={"eta": in_an_hour}))
    with running(site.queue, receiver):
        assert receiver.next().callback == callback
        site.idle()


def test_the_next_process_goes_on_where_one_ended(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(AGAIN, AGAIN, DELIVERED)
    site.queue.ended(record)
    numbers = []
    for _ in range(3):
        with running(site.fresh(), receiver):
            numbers.append(receiver.next().number)
    assert numbers == [1, 2, 3]
    site.idle()


def test_what_a_process_held_that_died_is_tried_by_another(site: Site) -> None:
    record = site.job(logs="")
    site.queue.ended(record)
    dying = site.fresh()
    dying._broker.declare_queue(subjects.CALLBACK_QUEUE)
    consumer = dying._broker.consume(subjects.CALLBACK_QUEUE, timeout=10_000)
    assert next(consumer) is not None
    dying._broker.held._subjects.clear()  # no heartbeat any more: as a killed process
    consumer._drop_wire()
    receiver = Receiver()
    with running(site.fresh(), receiver):
        assert receiver.next().number == 1
        site.idle()


def test_a_crash_between_the_next_try_and_the_ack_makes_no_second_one(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(AGAIN, AGAIN, DELIVERED)
    site.queue.ended(record)
    crashed = threading.Event()
    site.queue = queue = site.fresh(Backoff(first=1e6, longest=1e6, max_age=1e9))

    with running(queue, receiver):
        held = queue._broker.held
        settle, held.settle = held.settle, lambda *_: crashed.set()
        receiver.next()
        assert crashed.wait(20)
        held._subjects.clear()
        held.settle = settle
        receiver.next()  # it came again, and failed again
    counts = site.broker.get_queue_message_counts(subjects.CALLBACK_QUEUE)
    assert counts == (0, 1, 0)


def test_a_permanent_answer_makes_a_dead_letter_at_once_that_can_be_replayed(site: Site) -> None:
    first, second = site.job(logs=""), site.job(logs="")
    receiver = Receiver(NEVER, NEVER, DELIVERED)
    for record in (first, second):
        site.queue.ended(record)
    with running(site.queue, receiver):
        site.idle()
        dead = {each.callback.job_id: each for each in site.queue.dead()}
        assert set(dead) == {first.id, second.id}
        assert dead[first.id].reason == "the receiver answered 410"
        assert dead[first.id].since.startswith("20")
        assert site.queue.replay(["no such id"]) == 0
        assert site.queue.replay([dead[second.id].id]) == 1
        site.idle()
        assert [each.id for each in site.queue.dead()] == [dead[first.id].id]
        assert site.queue.replay(None) == 1
        site.idle()
    assert site.queue.dead() == []
    assert [receiver.next().number for _ in range(4)] == [1, 1, 1, 1]


def test_a_replay_right_after_a_retry_is_not_taken_for_a_repetition(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(AGAIN, NEVER, AGAIN, DELIVERED)
    site.queue.ended(record)
    with running(site.queue, receiver):
        site.idle()
        assert site.queue.replay(None) == 1
        site.idle()
    assert [receiver.next().number for _ in range(4)] == [1, 2, 1, 2]


def test_after_a_day_of_tries_it_is_given_up_and_a_replay_begins_anew(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver(AGAIN)
    site.clock.ahead = 1_000_000.0  # waiting for a first try costs none of the day
    site.queue.ended(record)
    with running(site.queue, receiver):
        while receiver.next().number < 3:
            pass
        assert site.queue.dead() == []
        site.clock.ahead += 86_300.0
        while receiver.next().number < 6:
            pass
        assert site.queue.dead() == []
        site.clock.ahead += 101.0
        site.idle()
        [dead] = site.queue.dead()
        assert dead.reason.startswith("given up after ")
        assert dead.reason.endswith(" tries: the receiver answered 500")
        receiver.came.queue.clear()
        site.queue.replay(None)
        while receiver.next().number < 3:
            pass
        receiver.script = [DELIVERED]
        site.idle()
    assert site.queue.dead() == []


def test_what_is_no_callback_becomes_a_dead_letter(site: Site) -> None:
    record = site.job(logs="")
    site.queue.ended(record)

    with running(site.queue, receiver := Receiver()):
        message = receiver.next().callback.message()
        site.broker.enqueue(message.copy(args=({"kind": "logs"},)))
        site.idle()
    [dead] = site.queue.dead()
    assert (dead.callback, dead.reason) == (None, "the message carries no callback")


def test_an_error_of_nats_counts_as_no_try(site: Site) -> None:
    record = site.job(logs="")
    receiver = Receiver(ConnectionClosed("away"), DELIVERED)
    site.queue.ended(record)
    with running(site.queue, receiver):
        assert [receiver.next().number, receiver.next().number] == [1, 1]
        site.idle()


def test_the_loop_outlives_a_restart_of_the_server(own_server: EmbeddedNats) -> None:
    site, receiver = Site(own_server.url), Receiver(AGAIN, DELIVERED)
    try:
        record = site.job(logs="")
        with running(site.queue, receiver):
            site.queue.ended(record)
            receiver.next()
            own_server.kill()
            own_server.start()
            receiver.next()
            site.idle()
    finally:
        site.close()


def test_the_loop_waits_for_a_server_that_is_not_there_yet(own_server: EmbeddedNats) -> None:
    site, receiver = Site(own_server.url), Receiver()
    try:
        record = site.job(logs="")
        site.queue.ended(record)
        own_server.stop()
        with running(site.fresh(), receiver):
            own_server.start()
            receiver.next()
            site.idle()
    finally:
        site.close()


def test_pauses_grow_up_to_their_longest_and_are_spread_from_nothing() -> None:
    backoff = Backoff()
    pauses = {tries: [backoff.pause(tries) for _ in range(300)] for tries in (1, 2, 5, 50, 5000)}
    bounds = {tries: max(values) for tries, values in pauses.items()}
    longest = {1: 5, 2: 10, 5: 80, 50: 300, 5000: 300}
    assert all(longest[tries] * 0.7 < bound <= longest[tries] for tries, bound in bounds.items())
    assert min(pauses[50]) < 60
    assert max(backoff.busy_pause(1000) for _ in range(100)) <= 32


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNats]:
    directory = tmp_path_factory.mktemp("old")
    try:
        program = fetch_server("2.11.11", directory)
    except subprocess.CalledProcessError as error:
        unavailable(f"nats-server 2.11.11 cannot be fetched: {error.stderr.decode()}")
    with EmbeddedNats(directory / "data", program=program) as server:
        yield server


def test_on_a_server_without_schedules_pauses_are_kept_as_well(
    old_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "pause", lambda self, tries: 1.2)
    site, receiver = Site(old_server.url), Receiver(AGAIN, DELIVERED)
    try:
        site.queue.ended(site.job(logs=""))
        with running(site.queue, receiver):
            receiver.next()
            began = time.monotonic()
            assert receiver.next().number == 2
            assert time.monotonic() - began > 1.0
            site.idle()
    finally:
        site.close()
