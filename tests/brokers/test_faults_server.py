"""A server that crashes, hangs, restarts or forgets, while messages flow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers.embedded import EmbeddedNats
from tests.acceptance.processes import until
from tests.brokers.fault_traffic import Traffic
from tests.brokers.fault_workers import Site
from tests.brokers.journal import ENDED, FAILS, STARTED
from tests.brokers.stream_admin import delete_consumers, delete_streams, standing_pulls, streams

MESSAGES = 10_000
MIDDLE = 3_000
"""Messages that were acknowledged when the fault begins."""
AWAY_SECONDS = 1.0
FROZEN_SECONDS = 8.0
RECOVERY_SECONDS = 15.0


def crash(server: EmbeddedNats) -> None:
    server.kill()
    time.sleep(AWAY_SECONDS)
    server.start()


def restart(server: EmbeddedNats) -> None:
    server.restart()


def hang(server: EmbeddedNats) -> None:
    with frozen(server):
        time.sleep(FROZEN_SECONDS)


@contextmanager
def frozen(server: EmbeddedNats) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("confirm", ["sync", "window"])
@pytest.mark.parametrize("fault", [crash, hang, restart])
def test_nothing_acknowledged_is_lost_with_the_server_gone_for_a_while(
    own_server: EmbeddedNats, tmp_path: Path, fault: Callable[[EmbeddedNats], None], confirm: str
) -> None:
    with Site(tmp_path, url=own_server.url, ack_wait=5.0) as site:
        for _ in range(2):
            site.start_worker(threads=4)
        traffic = Traffic(site, MESSAGES, window=confirm == "window")
        try:
            with traffic.fault(MIDDLE):
                fault(own_server)
            traffic.await_recovery(RECOVERY_SECONDS)
            traffic.check()
        finally:
            traffic.close()


@pytest.fixture
def site(own_server: EmbeddedNats, tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, url=own_server.url) as site:
        yield site


def run_one(site: Site, number: int) -> None:
    """A message runs, and nothing is left."""
    site.send("quick", number)
    site.journal.await_record(STARTED, number, seconds=RECOVERY_SECONDS)
    site.await_empty()


def await_standing_pull(server: EmbeddedNats) -> None:
    until(lambda: standing_pulls(server.url) > 0, "a worker waits for messages")


def test_a_worker_comes_back_when_its_consumer_was_deleted(site, own_server):
    worker = site.start_worker()
    run_one(site, 0)
    await_standing_pull(own_server)
    assert delete_consumers(own_server.url) > 0
    run_one(site, 1)
    assert worker.alive
    assert site.journal.runs() == {0: 1, 1: 1}


def test_messages_wait_for_a_worker_whose_consumer_was_deleted(site, own_server):
    worker = site.start_worker(threads=1, prefetch=1, gated=STARTED)
    for number in range(10):
        site.send("gated", number)
    site.journal.await_record(STARTED)
    assert delete_consumers(own_server.url) > 0
    worker.gate.open()
    site.await_all_run(range(10))
    site.await_empty()
    assert worker.alive
    print(f"{site.journal.duplicates()} duplicates")


def test_a_worker_and_a_publisher_come_back_when_their_stream_was_deleted(site, own_server):
    worker = site.start_worker(threads=1, prefetch=1, gated=STARTED)
    for number in range(3):
        site.send("gated", number)
    site.journal.await_record(STARTED, 0)
    assert delete_streams(own_server.url) == 1
    worker.gate.open()
    site.journal.await_record(ENDED, 0)
    run_one(site, 3)
    assert worker.alive
    assert site.journal.runs() == {0: 1, 3: 1}


@pytest.mark.parametrize("first", ["the worker", "a publisher"])
def test_a_stream_in_memory_is_made_anew_after_a_restart(own_server, tmp_path, first):
    with Site(tmp_path, url=own_server.url, storage="memory") as site:
        worker = site.start_worker()
        run_one(site, 0)
        own_server.restart()
        if first == "the worker":
            until(lambda: bool(streams(own_server.url)), "a stream again", RECOVERY_SECONDS)
        run_one(site, 1)
        assert worker.alive
        assert site.journal.runs() == {0: 1, 1: 1}


@pytest.mark.slow
def test_a_message_whose_retry_could_not_be_enqueued_is_not_lost(own_server, tmp_path):
    with Site(tmp_path, url=own_server.url, ack_wait=30.0) as site:
        worker = site.start_worker(gated=f"{STARTED},before_ack")
        site.send("fail_once", 0)
        site.journal.await_record(STARTED, 0)
        own_server.kill()
        worker.gate.open()
        site.journal.await_record(FAILS, 0)
        worker.gate.shut()
        site.journal.await_record("before_ack", 0)
        own_server.start()
        await_standing_pull(own_server)
        worker.gate.open()
        site.await_empty()
        assert site.journal.records(ENDED, 0), "the message was acknowledged, and is gone"
