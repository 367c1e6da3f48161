"""A network that is cut without a word, while messages flow through it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers.embedded import EmbeddedNats
from tests.brokers.cut import Cut, Wire, WireError
from tests.brokers.fault_traffic import Traffic
from tests.brokers.fault_workers import Site
from tests.brokers.journal import STARTED
from tests.conftest import unavailable

MESSAGES = 8_000
MIDDLE = 2_000
SHORT_SECONDS = 10.0
LONG_SECONDS = 50.0
"""Longer than any ping, any request and any enqueue waits."""
RECOVERY_SECONDS = 20.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # nats-py leaves sockets on which no server speaks to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What the client leaves behind is not found in some later test."""
    yield
    gc.collect()


@pytest.fixture
def cut(own_server: EmbeddedNats) -> Iterator[Cut]:
    """In front of the server."""
    with Cut(own_server.port) as cut:
        yield cut


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """With a server at its end."""
    try:
        with Wire(tmp_path) as wire:
            yield wire
    except WireError as error:
        unavailable(str(error))


@contextmanager
def traffic_over(url: str, directory: Path, *, window: bool = False) -> Iterator[Traffic]:
    with Site(directory, url=url, ack_wait=5.0) as site:
        for _ in range(2):
            site.start_worker(threads=4)
        traffic = Traffic(site, MESSAGES, window=window)
        try:
            yield traffic
        finally:
            traffic.close()


def survive(traffic: Traffic, network: Cut | Wire, seconds: float) -> None:
    """A cut of so many seconds, after which all goes on by itself."""
    with traffic.fault(MIDDLE):
        network.cut()
        time.sleep(seconds)
        network.mend()
    traffic.await_recovery(RECOVERY_SECONDS)
    traffic.check()


@pytest.mark.parametrize("window", [False, True], ids=["sync", "window"])
def test_nothing_acknowledged_is_lost_in_a_short_cut(cut: Cut, tmp_path: Path, window: bool):
    with traffic_over(cut.url, tmp_path, window=window) as traffic:
        survive(traffic, cut, SHORT_SECONDS)


def test_nothing_acknowledged_is_lost_in_a_long_cut(cut: Cut, tmp_path: Path):
    with traffic_over(cut.url, tmp_path) as traffic:
        survive(traffic, cut, LONG_SECONDS)


def test_nothing_acknowledged_is_lost_while_every_packet_is_dropped(wire: Wire, tmp_path: Path):
    with traffic_over(wire.url, tmp_path) as traffic:
        survive(traffic, wire, SHORT_SECONDS)


def test_nothing_acknowledged_is_lost_when_all_connections_are_reset_again_and_again(
    cut: Cut, tmp_path: Path
):
    with traffic_over(cut.url, tmp_path) as traffic:
        for after in range(MIDDLE, MESSAGES, MIDDLE):
            with traffic.fault(after):
                cut.reset()
        traffic.await_recovery(RECOVERY_SECONDS)
        traffic.check()


def test_another_worker_runs_what_one_holds_that_is_cut_off(
    own_server: EmbeddedNats, cut: Cut, tmp_path: Path
):
    with Site(tmp_path, url=own_server.url, ack_wait=3.0) as site:
        first = site.start_worker(gated=STARTED, url=cut.url, prefetch=1)
        site.send("gated", 0)
        site.journal.await_record(STARTED, 0)
        cut.cut()
        cut_at = time.monotonic()
        second = site.start_worker()
        again = site.journal.await_record(STARTED, 0, by=lambda run: run.worker == second.name)
        print(f"it ran again {again.at - cut_at:.1f} s after the cut")
        assert again.at - cut_at < 3.0 + 2.0
        first.gate.open()
        site.await_empty()
        cut.mend()
        second.kill()
        site.send("quick", 1)
        run = site.journal.await_record(STARTED, 1, seconds=RECOVERY_SECONDS)
        assert run.worker == first.name
        site.await_empty()
        assert site.journal.runs() == {0: 2, 1: 1}
