"""Workers that are killed, stopped or asked to go, at every point of a message's way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brokers.embedded import EmbeddedNats
from tests.acceptance.processes import until
from tests.brokers.fault_workers import QUEUE, FaultWorker, Site
from tests.brokers.journal import ENDED, STARTED, STOPPING, Record
from tests.brokers.stream_admin import in_flight, standing_pulls

ACK_WAIT = 2.0
AGAIN_SECONDS = ACK_WAIT + 2.0
"""From a worker's death until another one runs its message."""
AT_ONCE_SECONDS = 5.0
"""With an ack wait of twenty seconds. Dramatiq's command looks once a second whether to stop."""

OpenSite = Callable[..., Site]


@pytest.fixture
def open_site(own_server: EmbeddedNats, tmp_path: Path) -> Iterator[OpenSite]:
    """On a server of its own."""
    sites: list[Site] = []

    def open_one(**options: object) -> Site:
        site = Site(tmp_path, **{"url": own_server.url, "ack_wait": ACK_WAIT, **options})
        sites.append(site)
        return site.__enter__()

    yield open_one
    for site in sites:
        site.__exit__(None, None, None)


@pytest.fixture
def site(open_site: OpenSite) -> Site:
    return open_site()


def kill(worker: FaultWorker) -> float:
    """When."""
    worker.kill()
    return time.monotonic()


def await_again(site: Site, number: int, killed: float, seconds: float = AGAIN_SECONDS) -> Record:
    """The run of another worker, which must not come late."""
    again = site.journal.await_record(STARTED, number, by=lambda record: record.at > killed)
    print(f"{number} ran again {again.at - killed:.2f} s after its worker was killed")
    assert again.at - killed < seconds
    return again


def await_in_flight(server: EmbeddedNats, count: int) -> None:
    until(lambda: in_flight(server.url) == count, f"{count} messages in flight")


def await_standing_pull(server: EmbeddedNats) -> None:
    until(lambda: standing_pulls(server.url) > 0, "a worker waits for messages")


def test_what_a_killed_worker_had_prefetched_runs_elsewhere(site, own_server):
    first = site.start_worker(threads=1, prefetch=4, gated=STARTED)
    site.send("gated", 0)
    site.journal.await_record(STARTED, 0)
    for number in (1, 2, 3):
        site.send("quick", number)
    await_in_flight(own_server, 4)
    second = site.start_worker()

    killed = kill(first)
    for number in range(4):
        assert await_again(site, number, killed).worker == second.name
    site.await_empty()
    assert site.journal.runs() == {0: 2, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("phase", [STARTED, "after_process_message", "before_ack"])
def test_a_message_whose_worker_is_killed_before_its_ack_runs_again(site, phase):
    first = site.start_worker(gated=phase)
    site.send("gated", 0)
    site.journal.await_record(phase, 0)
    second = site.start_worker()

    assert await_again(site, 0, kill(first)).worker == second.name
    site.await_empty()
    assert site.journal.runs() == {0: 2}


@pytest.mark.parametrize("phase", ["before_enqueue", "after_enqueue"])
def test_an_actor_killed_around_its_enqueue_enqueues_again(site, phase):
    first = site.start_worker(gated=phase)
    site.send("relay", 0, 100)
    site.journal.await_record(phase, 100)
    second = site.start_worker()

    assert await_again(site, 0, kill(first)).worker == second.name
    site.await_all_run([0, 100])
    site.await_empty()
    assert site.journal.runs() == {0: 2, 100: 1 if phase == "before_enqueue" else 2}


def test_an_actor_killed_while_the_server_owes_it_a_confirm_enqueues_again(site, own_server):
    first = site.start_worker(gated="before_enqueue")
    site.send("relay", 0, 100)
    site.journal.await_record("before_enqueue", 100)
    second = site.start_worker()
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        first.gate.open()
        until(lambda: unread(own_server.port) > 200, "the message is on its way")
        killed = kill(first)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)

    assert await_again(site, 0, killed).worker == second.name
    site.await_all_run([0, 100])
    site.await_empty()
    print(f"{site.journal.duplicates()} duplicates")


def unread(port: int) -> int:
    """Most bytes that wait in one connection of the process that listens at `port`."""
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [fields for fields in connections if fields[1].endswith(f":{port:04X}")]
    return max(int(fields[4].partition(":")[2], 16) for fields in ours if fields[3] == "01")


def test_a_worker_killed_while_idle_takes_no_message_with_it(site, own_server):
    first = site.start_worker()
    site.send("quick", 0)
    site.journal.await_record(STARTED, 0)
    site.await_empty()
    await_standing_pull(own_server)
    second = site.start_worker()

    killed = kill(first)
    for number in range(1, 21):
        site.send("quick", number)
    for number in range(1, 21):
        assert await_again(site, number, killed).worker == second.name
    site.await_empty()
    assert site.journal.duplicates() == 0


def test_a_message_runs_again_whose_worker_is_killed_while_it_stops(site, own_server):
    first = site.start_worker(threads=1, prefetch=3, gated=STARTED)
    for number in range(3):
        site.send("gated", number)
    site.journal.await_record(STARTED)
    await_in_flight(own_server, 3)
    first.terminate()
    until(lambda: first.has_been(STOPPING), "the worker stops")
    second = site.start_worker()

    killed = kill(first)
    [busy] = [record.number for record in site.journal.records(STARTED) if record.at < killed][:1]
    assert await_again(site, busy, killed).worker == second.name
    site.await_all_run(range(3))
    site.await_empty()
    print(f"{site.journal.duplicates()} duplicates")
    assert site.journal.runs()[busy] == 2


@pytest.mark.parametrize("busy", [False, True], ids=["its actor ends", "its actor runs on"])
def test_what_a_stopping_worker_had_prefetched_goes_to_another_at_once(open_site, own_server, busy):
    site = open_site(ack_wait=20.0)
    first = site.start_worker(threads=1, prefetch=5, gated=STARTED)
    site.send("gated", 0)
    site.journal.await_record(STARTED, 0)
    for number in range(1, 5):
        site.send("quick", number)
    await_in_flight(own_server, 5)
    second = site.start_worker()

    stopped = time.monotonic()
    first.terminate()
    if not busy:
        until(lambda: first.has_been(STOPPING), "the worker stops")
        first.gate.open()
    for number in range(1, 5):
        run = site.journal.await_record(STARTED, number, seconds=AT_ONCE_SECONDS)
        assert run.worker == second.name
        assert run.at - stopped < AT_ONCE_SECONDS
    first.gate.open()
    assert first.wait() == 0
    site.await_empty()
    assert site.journal.duplicates() == 0


@pytest.mark.parametrize("other", ["has ended", "still runs"])
def test_the_late_ack_of_a_stopped_worker_harms_nothing(site, other):
    first = site.start_worker(gated=STARTED, prefetch=1)
    site.send("gated", 0)
    site.journal.await_record(STARTED, 0)
    second = site.start_worker(gated=STARTED)
    first.signal(signal.SIGSTOP)
    try:
        again = site.journal.await_record(STARTED, 0, by=lambda r: r.worker == second.name)
        if other == "has ended":
            second.gate.open()
            site.await_empty()
    finally:
        first.signal(signal.SIGCONT)
    first.gate.open()
    site.journal.await_record(ENDED, 0, by=lambda record: record.worker == first.name)
    second.gate.open()
    site.journal.await_record(ENDED, 0, by=lambda record: record.pid == again.pid)
    site.await_empty()

    second.terminate()
    assert second.wait() == 0
    site.send("quick", 1)
    assert site.journal.await_record(STARTED, 1).worker == first.name
    site.await_empty()
    assert site.journal.runs() == {0: 2, 1: 1}


@pytest.mark.slow
def test_what_takes_longer_than_ten_ack_waits_is_delivered_once(open_site):
    site = open_site(ack_wait=1.0)
    for _ in range(2):
        site.start_worker(threads=1, prefetch=4)
    for number in range(2):
        site.send("slow", number, 10.5)
        site.journal.await_record(STARTED, number)
    for number in range(2, 6):
        site.send("quick", number)
    site.await_all_run(range(6))
    site.await_empty()
    assert site.journal.runs() == dict.fromkeys(range(6), 1)


def test_an_actor_that_holds_the_interpreter_for_half_an_ack_wait_runs_once(open_site):
    site = open_site(ack_wait=6.0)
    for _ in range(2):
        site.start_worker(threads=2)
    site.send("hold_gil", 0, 3)
    site.journal.await_record(ENDED, 0)
    site.await_empty()
    assert site.journal.runs() == {0: 1}


def run_poisoned(site: Site, server: EmbeddedNats, cap: int, messages: int = 1) -> None:
    """Start a worker after each that dies, until the message has had its runs; and one more."""
    for run in range(1, cap + 1):
        worker = site.start_worker(prefetch=messages, gated=STARTED)
        until(lambda run=run: site.journal.runs()[0] == run, f"run {run}")
        await_in_flight(server, messages)
        worker.gate.open()
        assert worker.wait() != 0
    site.start_worker()
    until(lambda: site.broker.get_queue_message_counts(QUEUE)[2] > 0, "a dead letter")


@pytest.mark.slow
def test_a_message_that_kills_its_worker_is_buried_after_its_last_run(open_site, own_server):
    site = open_site(max_deliver=3)
    site.send("poison", 0)
    run_poisoned(site, own_server, cap=3)
    site.broker.join(QUEUE, timeout=30_000)
    site.send("quick", 1)
    site.journal.await_record(STARTED, 1)

    [letter] = site.broker.get_dead_letters(QUEUE)
    assert letter.message.args == (0,)
    assert "3" in letter.reason, letter.reason
    print(letter.reason)
    assert site.journal.runs() == {0: 3, 1: 1}


@pytest.mark.slow
def test_what_was_prefetched_beside_a_poison_message_is_not_buried_with_it(open_site, own_server):
    site = open_site(max_deliver=3)
    site.send("poison", 0)
    site.send("quick", 1)
    run_poisoned(site, own_server, cap=3, messages=2)
    site.broker.join(QUEUE, timeout=30_000)

    assert [letter.message.args for letter in site.broker.get_dead_letters(QUEUE)] == [(0,)]
    assert site.journal.runs() == {0: 3, 1: 1}
