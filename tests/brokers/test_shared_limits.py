"""Limits that processes share: each `SharedLimits` here stands for one."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.leases import AWAY_SECONDS, EMPTY_SECONDS
from brokers.nats.compare_and_set import Decide
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed
from brokers.shared_limits import SharedLimits, nats_store
from brokers.token_buckets import Rate
from tests.brokers import shared_limit_processes


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """A store without NATS, that counts how often it is asked."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.asked = 0
        self.away = False

    def change(self, key: str, decide: Decide, *, patience: float) -> bool:
        self.asked += 1
        if self.away:
            raise ConnectionClosed("away")
        write = decide(self.values.get(key))
        if write is not None:
            self.values[key] = write.value
        return write is not None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> Memory:
    return Memory()


def process(memory: Memory, clock: Clock, skew: float = 0.0) -> SharedLimits:
    return SharedLimits(memory, lambda: clock.now + skew, clock)


def allowed(limits: SharedLimits, rate: Rate, tries: int, name: str = "ci") -> int:
    return sum(limits.take(name, rate).allowed for _ in range(tries))


def test_a_burst_is_let_through_and_no_more(memory, clock):
    limits = process(memory, clock)
    assert allowed(limits, Rate.parse("5/s", 20), 50) == 20


def test_names_do_not_disturb_each_other(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("5/s")
    assert allowed(limits, rate, 10, "one") == 5
    assert allowed(limits, rate, 10, "other") == 5


def test_a_refusal_says_when_to_come_again(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("6/m")
    assert allowed(limits, rate, 6) == 6
    refused = limits.take("ci", rate)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.wait == pytest.approx(10, abs=0.1)
    clock.now += refused.wait
    assert limits.take("ci", rate).allowed


def test_processes_share_a_bucket(memory, clock):
    rate = Rate.parse("100/s")
    first, second = process(memory, clock), process(memory, clock)
    shared = allowed(first, rate, 60) + allowed(second, rate, 60)
    assert 90 <= shared <= 100


@settings(deadline=None)
@given(
    st.builds(
        Rate, amount=st.integers(1, 2_000), unit=st.sampled_from("sm"), burst=st.integers(1, 500)
    ),
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 3), st.integers(1, 40)), min_size=1, max_size=150
    ),
)
def test_together_processes_never_exceed_the_bucket(rate, requests):
    """But for what they had leased when it was full again."""
    clock, memory = Clock(), Memory()
    processes = [process(memory, clock) for _ in range(4)]
    taken = 0
    for number, wait, count in requests:
        clock.now += wait
        count = min(count, rate.burst)
        if processes[number].take("ci", rate, count).allowed:
            taken += count
    passed = clock.now - 1_000.0
    leases = len(processes) * max(1, rate.burst // 8)
    assert taken <= rate.burst + passed * rate.per_second + leases + 0.01


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(5, 400))
def test_who_keeps_his_rate_is_not_refused_however_many_processes_serve_him(count, amount):
    clock, memory = Clock(), Memory()
    rate = Rate(amount=amount, unit="s", burst=max(amount, 2 * count))
    processes = [process(memory, clock) for _ in range(count)]
    for number in range(min(amount * 3, 300)):
        assert processes[number * 7 % count].take("ci", rate).allowed
        clock.now += 1 / (amount * 0.95)


def test_a_busy_process_asks_nats_some_ten_times_a_second(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("10000/s")
    for _ in range(5_000):
        assert limits.take("ci", rate).allowed
        clock.now += 1 / 5_000
    assert memory.asked < 40


def test_a_flood_of_what_is_refused_does_not_reach_nats(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("1/h")
    assert allowed(limits, rate, 10_000) == 1
    assert memory.asked <= 2
    other = process(memory, clock)
    assert allowed(other, rate, 10_000) == 0
    assert memory.asked <= 3


def test_what_another_process_gave_back_is_found_again(memory, clock):
    rate = Rate.parse("1/h", 2)
    first, second = process(memory, clock), process(memory, clock)
    assert first.take("ci", rate).allowed
    assert second.take("ci", rate).allowed
    clock.now += EMPTY_SECONDS
    assert not first.take("ci", rate).allowed


@pytest.mark.parametrize("skew", [-30.0, 30.0])
def test_machines_whose_clocks_differ_have_the_same_limit(memory, clock, skew):
    rate = Rate.parse("10/s")
    right, wrong = process(memory, clock), process(memory, clock, skew)
    taken = 0
    for _ in range(1_000):
        clock.now += 0.01
        taken += right.take("ci", rate).allowed + wrong.take("ci", rate).allowed
    assert 100 <= taken <= 10 + 10 * 10 + 2


@pytest.mark.parametrize("skew", [-30.0, 30.0])
def test_who_keeps_his_rate_is_not_refused_because_of_a_wrong_clock(memory, clock, skew):
    rate = Rate.parse("10/s")
    machines = [process(memory, clock), process(memory, clock, skew)]
    for number in range(200):
        clock.now += 0.11
        assert machines[number % 2].take("ci", rate).allowed


def test_a_batch_costs_as_much_as_it_has_jobs(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("10/s")
    assert limits.take("ci", rate, 8).allowed
    refused = limits.take("ci", rate, 8)
    assert not refused.allowed
    assert limits.take("ci", rate, 2).allowed


def test_a_batch_that_is_larger_than_the_bucket_takes_it_whole_and_owes_the_rest(memory, clock):
    limits, rate = process(memory, clock), Rate.parse("10/s")
    assert limits.take("ci", rate, 25).allowed
    assert limits.take("ci", rate).wait == pytest.approx(1.6, abs=0.1)


def test_without_nats_the_limit_holds_for_each_process_alone(memory, clock, caplog):
    rate = Rate.parse("10/s")
    memory.away = True
    first, second = process(memory, clock), process(memory, clock)
    assert (allowed(first, rate, 30), allowed(second, rate, 30)) == (10, 10)
    assert memory.asked == 2
    clock.now += AWAY_SECONDS
    assert (allowed(first, rate, 30), allowed(second, rate, 30)) == (10, 10)
    assert memory.asked == 4
    assert len(caplog.records) == 2, "each process says so once"


def test_once_nats_is_back_the_limit_is_shared_again(memory, clock):
    rate = Rate.parse("1/h", 10)
    memory.away = True
    limits = process(memory, clock)
    assert limits.take("ci", rate).allowed
    memory.away = False
    clock.now += AWAY_SECONDS
    assert limits.take("ci", rate).allowed
    assert memory.values


def test_without_a_store_a_limit_is_the_process_own(clock):
    assert allowed(SharedLimits(None, clock, clock), Rate.parse("5/s"), 9) == 5


def test_who_waits_for_another_thread_that_asks_does_not_wait_for_long(clock):
    entered, go_on = threading.Event(), threading.Event()

    class Frozen(Memory):
        def change(self, key: str, decide: Decide, *, patience: float) -> bool:
            entered.set()
            go_on.wait(60)
            return super().change(key, decide, patience=patience)

    limits, rate = SharedLimits(Frozen(), clock, clock), Rate.parse("10/s")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(limits.take, "ci", rate)
        assert entered.wait(60)
        assert limits.take("ci", rate).allowed
        assert not asking.done()
        go_on.set()
        assert asking.result(60).allowed


@pytest.fixture
def own_connection(own_server) -> Iterator[NatsConnection]:
    connection = NatsConnection(own_server.url, connect_timeout=0.5)
    yield connection
    connection.close()


def test_threads_of_processes_share_a_limit_in_nats(nats_server):
    """Nothing comes in meanwhile, so it is exact."""
    context, name = multiprocessing.get_context("spawn"), uuid.uuid4().hex
    start = context.Barrier(2)
    with context.Pool(2, shared_limit_processes.be_ready, [start]) as pool:
        tasks = [(nats_server.url, name, "1/h", 200)] * 2
        counts = pool.starmap_async(shared_limit_processes.run, tasks, chunksize=1).get(100)
    assert 175 <= sum(counts) <= 200
    assert min(counts) > 0


def test_a_nats_that_dies_and_comes_back_fails_no_request(own_server, own_connection):
    limits, rate = SharedLimits(nats_store(own_connection)), Rate.parse("100000/s", 1_000_000)
    assert limits.take("ci", rate).allowed
    own_server.kill()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert limits.take("ci", rate).allowed
    own_server.start()
    bucket = nats_store(own_connection)._bucket
    share = limits._shares["ci"]
    while share._now() < share._away_until or bucket.get("ci").value is None:
        assert limits.take("ci", rate).allowed
