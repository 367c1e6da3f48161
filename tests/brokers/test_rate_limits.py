"""Dramatiq's own rate limiters on our backend."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from dramatiq.rate_limits import (
    Barrier,
    BucketRateLimiter,
    ConcurrentRateLimiter,
    WindowRateLimiter,
)

from brokers.nats import NatsRateLimiterBackend
from brokers.nats.connection import NatsConnection


@pytest.fixture
def backend(connection) -> NatsRateLimiterBackend:
    return NatsRateLimiterBackend(connection=connection, namespace=f"l{uuid.uuid4().hex[:8]}")


def take(limiter, entered: threading.Semaphore, release: threading.Event) -> bool:
    with limiter.acquire(raise_on_failure=False) as acquired:
        entered.release()
        release.wait(30)
        return bool(acquired)


def granted_of(limiter, threads: int) -> int:
    """How many of so many threads get through while all of them are inside."""
    entered, release = threading.Semaphore(0), threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(take, limiter, entered, release) for _ in range(threads)]
        for _ in range(threads):
            assert entered.acquire(timeout=30)
        release.set()
        return sum(future.result() for future in futures)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_threads_than_allowed_are_inside_at_once(backend, limit) -> None:
    limiter = ConcurrentRateLimiter(backend, "a key/with *odd* characters", limit=limit)
    for _ in range(3):
        assert granted_of(limiter, 8) == limit


def test_a_bucket_lets_so_many_through_in_its_time(backend) -> None:
    limiter = BucketRateLimiter(backend, "bucket", limit=5, bucket=3_600_000)
    assert granted_of(limiter, 8) == 5
    assert granted_of(limiter, 8) == 0


def test_a_window_lets_so_many_through_also_with_eight_threads(backend) -> None:
    limiter = WindowRateLimiter(backend, "window", limit=5, window=60)
    assert granted_of(limiter, 8) == 5
    assert granted_of(limiter, 8) == 0


def test_a_barrier_opens_for_the_last_party(backend) -> None:
    barrier = Barrier(backend, "barrier", ttl=60_000)
    assert barrier.create(parties=8)
    assert not barrier.create(parties=8)
    with ThreadPoolExecutor(8) as pool:
        last = list(pool.map(lambda _: barrier.wait(block=False), range(8)))
    assert sorted(last) == [False] * 7 + [True]


def test_parties_of_a_barrier_wait_for_each_other(backend) -> None:
    barrier = Barrier(backend, "meeting", ttl=60_000)
    barrier.create(parties=8)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: barrier.wait(timeout=30_000), range(8)))


def test_a_party_that_waits_alone_gives_up(backend) -> None:
    barrier = Barrier(backend, "lonely", ttl=60_000)
    barrier.create(parties=2)
    assert not barrier.wait(timeout=200)


def test_a_waiter_is_woken_by_a_notice(backend) -> None:
    with ThreadPoolExecutor(4) as pool:
        woken = [pool.submit(backend.wait, "k", 30_000) for _ in range(4)]
        threading.Event().wait(0.2)  # most of them wait by now; a late one succeeds as well
        backend.wait_notify("k", ttl=30_000)
        assert all(future.result(30) for future in woken)


def test_a_waiter_that_comes_late_succeeds_until_the_notice_is_over(backend) -> None:
    backend.wait_notify("k", ttl=400)
    assert backend.wait("k", 5_000)
    time.sleep(0.5)  # time itself is what is tested
    assert not backend.wait("k", 100)


def test_a_waiter_leaves_no_subscription(backend, connection) -> None:
    backend.wait("k", 10)
    before = len(connection.client._subs)
    for _ in range(5):
        backend.wait("k", 10)
    assert len(connection.client._subs) == before


def test_values_change_only_within_their_bounds(backend) -> None:
    assert backend.add("k", 2, ttl=60_000)
    assert not backend.add("k", 5, ttl=60_000)
    assert backend.incr("k", 1, maximum=3, ttl=60_000)
    assert not backend.incr("k", 1, maximum=3, ttl=60_000)
    assert backend.decr("k", 3, minimum=0, ttl=60_000)
    assert not backend.decr("k", 1, minimum=0, ttl=60_000)


def test_a_value_is_gone_after_its_time(backend) -> None:
    assert backend.add("k", 1, ttl=200)
    time.sleep(0.3)  # time itself is what is tested
    assert backend.add("k", 1, ttl=60_000)


def test_keys_do_not_mix(backend) -> None:
    for key in ("a.b", "a b", "a", "ä", "a=2Eb", "*", ">"):
        assert backend.add(key, 1, ttl=60_000), key


def test_eight_threads_count_exactly(backend) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: backend.incr("n", 1, maximum=40, ttl=60_000), range(64)))
    assert sum(done) == 40


def test_the_sum_over_several_keys_stays_within_its_bound(backend) -> None:
    keys = [f"part-{number}" for number in range(4)]

    def add(number: int) -> bool:
        key = keys[number % 4]
        return backend.incr_and_sum(key, lambda: keys, 1, maximum=10, ttl=60_000)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(32))) == 10


def test_a_waiter_survives_a_restart_of_the_server(own_server) -> None:
    connection = NatsConnection(own_server.url)
    backend = NatsRateLimiterBackend(connection=connection)
    backend.add("warm", 1, ttl=60_000)
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(backend.wait, "k", 30_000)
        threading.Event().wait(0.2)
        own_server.kill()
        own_server.start()
        backend.wait_notify("k", ttl=30_000)
        assert woken.result(40)
    connection.close()
