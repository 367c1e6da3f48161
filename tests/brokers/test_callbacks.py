"""The outbox of callbacks, on a real server: what is told to whom."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import Queue

import pytest

from brokers.callbacks.hosts import Hosts, host_of
from brokers.callbacks.loop import Limits
from brokers.callbacks.messages import CallbackKind, Delivery, Outcome
from brokers.callbacks.targets import KEEP_SECONDS
from brokers.embedded import EmbeddedNats
from executors.job import JobState
from tests.brokers.outboxes import (
    AGAIN,
    DELIVERED,
    LOGS_URL,
    NEVER,
    STATUS_URL,
    Receiver,
    Site,
    running,
)


@pytest.fixture
def site(nats_server: EmbeddedNats) -> Iterator[Site]:
    site = Site(nats_server.url)
    yield site
    site.close()


def test_the_end_of_a_job_is_told_to_both_addresses_with_its_facts(site: Site) -> None:
    record, receiver = site.job(reason="r", state=JobState.FAILED), Receiver()
    site.queue.ended(record)
    with running(site.queue, receiver):
        came = {each.callback.kind: each for each in (receiver.next(), receiver.next())}
        site.idle()
    logs, status = came[CallbackKind.LOGS], came[CallbackKind.STATUS]
    assert (logs.url, status.url) == (LOGS_URL, STATUS_URL)
    assert (logs.number, status.number) == (1, 1)
    callback = status.callback
    assert (callback.job_id, callback.name, callback.state) == (record.id, "n", JobState.FAILED)
    assert (callback.reason, callback.attempt) == ("r", 1)
    assert (callback.queued_at, callback.started_at) == (record.queued_at, record.started_at)
    assert callback.finished_at == record.finished_at
    assert callback.id == f"{record.id}-1-status-Failed-20260101000002000000"


def test_only_what_somebody_wants_to_know_is_told(site: Site) -> None:
    logs, status, receiver = site.job(status=""), site.job(logs=""), Receiver()
    for record in (logs, status):
        site.queue.changed(replace(record, state=JobState.RUNNING))
        site.queue.ended(record)
    with running(site.queue, receiver):
        site.idle()
    told = [receiver.next().callback for _ in range(receiver.came.qsize())]
    assert {(each.job_id, each.kind, each.state) for each in told} == {
        (logs.id, "logs", "Succeeded"),
        (status.id, "status", "Running"),
        (status.id, "status", "Succeeded"),
    }


def test_telling_again_is_told_once(site: Site) -> None:
    record, receiver = site.job(logs=""), Receiver()
    for _ in range(3):
        site.queue.ended(record)
    with running(site.queue, receiver):
        site.idle()
        site.queue.put(CallbackKind.STATUS, replace(record, reason="again"))
        site.queue.ended(record)
        site.idle()
    assert receiver.came.qsize() == 1


def test_what_was_delivered_is_not_told_again_when_its_message_comes_again(site: Site) -> None:
    record, receiver = site.job(), Receiver()
    site.queue.changed(replace(record, state=JobState.RUNNING))
    with running(site.queue, receiver):
        first = receiver.next().callback
        site.idle()
        site.broker.enqueue(first.message())
        site.idle()
    assert receiver.came.empty()


def test_addresses_are_forgotten_when_all_is_delivered_and_not_before(site: Site) -> None:
    record, receiver = site.job(), Receiver(DELIVERED)
    site.queue.changed(replace(record, state=JobState.RUNNING))
    with running(site.queue, receiver):
        site.idle()
        target = site.queue.targets.get(record.id)
        assert target is not None and target.callback_url == LOGS_URL
        site.queue.ended(record)
        site.idle()
    target = site.queue.targets.get(record.id)
    assert target is not None and not (target.callback_url or target.status_callback_url)
    site.queue.targets.delete(record.id)
    assert site.queue.targets.get(record.id) is None


def test_a_job_that_is_retried_is_told_of_again(site: Site) -> None:
    record, receiver = site.job(), Receiver()
    with running(site.queue, receiver):
        site.queue.ended(record)
        site.idle()
        site.queue.targets.put(record.id, LOGS_URL, STATUS_URL)
        site.queue.ended(replace(record, attempt=2))
        site.idle()
    assert sorted(receiver.next().callback.attempt for _ in range(4)) == [1, 1, 2, 2]


def test_a_job_that_is_stopped_twice_before_it_ran_is_told_of_twice(site: Site) -> None:
    record = site.job(logs="", attempt=0, state=JobState.STOPPED, started_at="")
    receiver = Receiver()
    with running(site.queue, receiver):
        site.queue.ended(record)
        site.idle()
        site.queue.targets.put(record.id, "", STATUS_URL)
        site.queue.ended(replace(record, finished_at="2026-01-01T00:00:09.000000Z"))
        site.idle()
    assert receiver.came.qsize() == 2


def test_addresses_of_a_job_that_has_ended_are_kept_for_eight_days_at_most(site: Site) -> None:
    record = site.job()
    bucket = site.queue.targets._bucket
    assert bucket.get(record.id).expires_at == float("inf")
    site.queue.ended(record)
    assert bucket.get(record.id).expires_at - time.time() == pytest.approx(KEEP_SECONDS, abs=60)
    with running(site.queue, Receiver(DELIVERED, NEVER)):
        site.idle()
    assert bucket.get(record.id).expires_at - time.time() <= KEEP_SECONDS
    target = site.queue.targets.get(record.id)
    assert target is not None and target.callback_url and target.status_callback_url


def test_a_receiver_that_hangs_does_not_hold_up_the_others(site: Site) -> None:
    over, slow = threading.Event(), "http://slow.example/"
    most, under_way, lock = 0, 0, threading.Lock()
    quick: Queue[str] = Queue()

    def deliver(delivery: Delivery) -> Outcome:
        nonlocal most, under_way
        if delivery.url != slow:
            quick.put(delivery.callback.job_id)
            return DELIVERED
        with lock:
            under_way += 1
            most = max(most, under_way)
        over.wait(30)
        with lock:
            under_way -= 1
        return DELIVERED

    for _ in range(20):
        site.queue.ended(site.job(logs="", status=slow))
    others = {site.job(logs="", status=f"http://quick{n}.example/") for n in range(20)}
    for record in others:
        site.queue.ended(record)
    with running(site.queue, deliver, Limits(threads=4, per_host=2)):
        assert {quick.get(timeout=20) for _ in others} == {record.id for record in others}
        assert most == 2
        over.set()
        site.idle()
    assert site.queue.dead() == []


def test_two_processes_share_the_work_and_tell_each_once(site: Site) -> None:
    records, receiver = [site.job() for _ in range(20)], Receiver()
    for record in records:
        site.queue.ended(record)
    with running(site.queue, receiver), running(site.fresh(), receiver):
        site.idle()
    told = [receiver.next().callback.id for _ in range(receiver.came.qsize())]
    assert len(told) == len(set(told)) == 40
    for record in records:
        target = site.queue.targets.get(record.id)
        assert target is not None and not target.callback_url


def test_no_message_holds_an_address_and_nothing_secret_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    record, receiver = site.job(), Receiver(AGAIN, ValueError("a bug"), NEVER, DELIVERED)
    site.queue.ended(record)
    with running(site.queue, receiver):
        came = [receiver.next(), receiver.next()]
        site.idle()
    [dead] = site.queue._letters()
    assert b"example" not in dead.data and b"s3cret" not in dead.data
    told = f"{caplog.text}{[vars(each) for each in caplog.records]}{came}{site.queue.dead()}"
    assert "s3cret" not in told + repr(site.queue.targets.get(record.id))


def test_hosts_are_told_apart_by_name_and_port_alone() -> None:
    hosts = Hosts(1)
    with hosts.slot("http://a@HOST:1/x") as first, hosts.slot("http://b@host:1/y") as second:
        with hosts.slot("http://host:2/") as third, hosts.slot("http://[bad") as fourth:
            assert (first, second, third, fourth) == (True, False, True, True)
    assert host_of("http://[bad") == ""
    assert not hosts._under_way
