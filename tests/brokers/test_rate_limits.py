"""Dramatiq's own rate limiters on our backend."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Iterator
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
from brokers.nats.errors import MessageTooLarge
from tests.brokers.kv_tools import Wires, subscriptions_heard


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


@pytest.fixture
def wires(connection, monkeypatch) -> Wires:
    return Wires(connection, monkeypatch)


@pytest.fixture
def watched(connection, wires) -> Iterator[NatsRateLimiterBackend]:
    """A backend of which the test knows what it sends."""
    backend = NatsRateLimiterBackend(connection=connection, namespace=f"l{uuid.uuid4().hex[:8]}")
    backend.add("warm", 1, ttl=60_000)
    wires.asked.clear()
    yield backend
    backend.close()


def another(backend: NatsRateLimiterBackend, connection) -> NatsRateLimiterBackend:
    """As another process would have one."""
    return NatsRateLimiterBackend(connection=connection, namespace=backend._bucket.name)


def value(backend: NatsRateLimiterBackend, key: str) -> int:
    return int(backend._bucket.get(key).value or b"0")


def window(backend: NatsRateLimiterBackend, key: str, seconds: int, limit: int = 10**6):
    return WindowRateLimiter(backend, key, limit=limit, window=seconds)


def test_the_window_of_an_hour_costs_two_requests(watched, wires) -> None:
    now = int(time.time())
    keys = [f"hour@{now - second}" for second in range(3600)]
    for key in keys[::60]:
        assert watched.incr_and_sum(key, lambda: keys, 1, maximum=60, ttl=3_600_000)
    wires.asked.clear()
    assert not watched.incr_and_sum(keys[0], lambda: keys, 1, maximum=60, ttl=3_600_000)
    assert watched.incr_and_sum(keys[0], lambda: keys, 1, maximum=61, ttl=3_600_000)
    assert len(wires.asked) == 2


def test_what_is_counted_in_between_counts(watched, connection) -> None:
    """The limit is exact: whoever was second decides again."""
    rival, keys, lost = another(watched, connection), ["w@1", "w@2"], []

    def keys_while_a_rival_counts() -> list[str]:
        if not lost:
            lost.append(rival.incr_and_sum("w@1", lambda: keys, 1, maximum=1, ttl=60_000))
        return keys

    assert not watched.incr_and_sum("w@2", keys_while_a_rival_counts, 1, maximum=1, ttl=60_000)
    assert lost == [True]


def test_the_same_holds_for_keys_that_have_nothing_in_common(watched, connection) -> None:
    rival, keys, lost = another(watched, connection), ["a", "b", "c@d", "e@f"], []

    def keys_while_a_rival_counts() -> list[str]:
        if not lost:
            lost.append(rival.incr_and_sum("c@d", lambda: keys, 1, maximum=1, ttl=60_000))
        return keys

    assert not watched.incr_and_sum("b", keys_while_a_rival_counts, 1, maximum=1, ttl=60_000)
    assert lost == [True]


def test_limiters_do_not_get_in_each_others_way(watched, wires, connection) -> None:
    rival = another(watched, connection)

    def keys_while_others_count() -> list[str]:
        assert window(rival, "other", 10)._acquire()
        assert rival.incr("w", 1, maximum=9, ttl=60_000)
        wires.asked.clear()
        return ["w@1"]

    assert watched.incr_and_sum("w@1", keys_while_others_count, 1, maximum=1, ttl=60_000)
    assert len(wires.asked) == 1  # the write, and no second try


def test_keys_of_several_limiters_can_be_summed(backend) -> None:
    keys = ["a@1", "b@1", "b@c@1", "plain"]
    assert all(backend.incr_and_sum(key, lambda: keys, 1, maximum=4, ttl=60_000) for key in keys)
    assert not backend.incr_and_sum("a@1", lambda: keys, 1, maximum=4, ttl=60_000)


def test_values_of_other_operations_are_summed(backend) -> None:
    backend.add("a", 3, ttl=60_000)
    assert not backend.incr_and_sum("b", lambda: ["a", "b"], 2, maximum=4, ttl=60_000)
    assert backend.incr_and_sum("b", lambda: ["a", "b"], 1, maximum=4, ttl=60_000)
    assert value(backend, "b") == 1


def test_a_window_slides(backend) -> None:
    for second in range(3):
        keys = [f"w@{second - age}" for age in range(2)]
        assert backend.incr_and_sum(keys[0], lambda keys=keys: keys, 1, maximum=2, ttl=60_000)
    assert not backend.incr_and_sum("w@2", lambda: ["w@2", "w@1"], 1, maximum=2, ttl=60_000)


def test_counts_of_one_window_end_each_at_their_time(backend) -> None:
    keys = ["w@1", "w@2"]
    assert backend.incr_and_sum("w@1", lambda: keys, 1, maximum=2, ttl=60_000)
    assert backend.incr_and_sum("w@2", lambda: keys, 1, maximum=2, ttl=200)
    assert not backend.incr_and_sum("w@2", lambda: keys, 1, maximum=2, ttl=200)
    time.sleep(0.3)  # time itself is what is tested
    assert backend.incr_and_sum("w@2", lambda: keys, 1, maximum=2, ttl=200)
    time.sleep(1.3)  # a record lives as long as the longest of its counts
    assert not backend.incr_and_sum("w@2", lambda: keys, 2, maximum=2, ttl=200)


def test_a_window_too_large_for_the_server_is_refused(backend) -> None:
    name = "x" * 1_100_000
    with pytest.raises(MessageTooLarge):
        backend.incr_and_sum(f"w@{name}", lambda: [f"w@{name}"], 1, maximum=2, ttl=60_000)
    assert backend.incr_and_sum("w@1", lambda: ["w@1"], 1, maximum=2, ttl=60_000)


def test_keys_may_be_of_any_length(backend) -> None:
    for key in ("", "x" * 20_000, "x" * 20_001, "ä" * 600, "=", "@", "@1"):
        assert backend.add(key, 1, ttl=60_000), key
        assert not backend.add(key, 1, ttl=60_000), key
        backend.wait_notify(key, ttl=60_000)
        assert backend.wait(key, 1_000), key


def test_notices_and_windows_do_not_mix_with_keys(backend) -> None:
    backend.wait_notify("k", ttl=60_000)
    assert backend.incr_and_sum("k@1", lambda: ["k@1"], 1, maximum=2, ttl=60_000)
    for key in ("k", "k@notified", "k.notice", "k@events", "k.window", "k@window"):
        assert backend.add(key, 1, ttl=60_000), key


def test_a_mutex_costs_three_requests_while_nobody_else_wants_it(watched, wires) -> None:
    limiter = ConcurrentRateLimiter(watched, "mutex", limit=1)
    with limiter.acquire():
        pass
    wires.asked.clear()
    with limiter.acquire():
        pass
    assert len(wires.asked) == 3


def test_a_process_notices_what_others_have_written(watched, connection) -> None:
    rival = another(watched, connection)
    for _ in range(5):
        assert watched.incr("k", 1, maximum=100, ttl=60_000)
        assert rival.incr("k", 1, maximum=100, ttl=60_000)
    assert value(watched, "k") == 10
    assert rival.decr("k", 10, minimum=0, ttl=60_000)
    assert watched.incr("k", 1, maximum=1, ttl=60_000)
    assert not rival.incr("k", 1, maximum=1, ttl=60_000)


def is_write(frames: bytes) -> bool:
    return frames.startswith(b"HPUB $KV")


@pytest.mark.parametrize("key", ["k", "k@1"])
def test_a_change_whose_answer_is_lost_is_made_once(watched, wires, key) -> None:
    wires.lose_answer_to = is_write
    assert watched.incr_and_sum(key, lambda: [key], 1, maximum=2, ttl=60_000)
    assert watched.incr_and_sum(key, lambda: [key], 1, maximum=2, ttl=60_000)
    assert not watched.incr_and_sum(key, lambda: [key], 1, maximum=2, ttl=60_000)


def test_a_change_whose_answer_is_lost_is_made_once_also_when_others_have_written_since(
    watched, wires, nats_server
) -> None:
    connection = NatsConnection(nats_server.url)
    rival = another(watched, connection)

    def lose_and_let_the_rival_write(frames: bytes) -> bool:
        lost = is_write(frames)
        if lost:
            wires.may_open.clear()  # until the rival is done
        return lost

    wires.lose_answer_to = lose_and_let_the_rival_write
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(watched.incr, "k", 1, 100, 60_000)
        while value(rival, "k") == 0:
            pass
        assert rival.incr("k", 10, maximum=100, ttl=60_000)
        wires.may_open.set()
        assert changing.result(30)
    assert value(rival, "k") == 11
    rival.close()
    connection.close()


def test_more_keys_than_a_process_remembers_are_no_trouble(backend, monkeypatch) -> None:
    monkeypatch.setattr("brokers.nats.compare_and_set._REMEMBERED", 4)
    for _ in range(2):
        for number in range(10):
            assert backend.incr(f"k{number}", 1, maximum=2, ttl=60_000)
    assert len(backend._changes._turns) <= 5


def test_a_turn_that_is_never_given_back_stops_nobody_for_good(backend, monkeypatch) -> None:
    monkeypatch.setattr("brokers.nats.compare_and_set._LONGEST_TURN", 0.1)
    with backend._changes._turn("k"):
        assert backend.incr("k", 1, maximum=2, ttl=60_000)
    assert backend.incr("k", 1, maximum=2, ttl=60_000)


def test_what_keys_raises_reaches_the_caller(backend) -> None:
    def broken() -> list[str]:
        raise ValueError("no keys")

    with pytest.raises(ValueError, match="no keys"):
        backend.incr_and_sum("w@1", broken, 1, maximum=1, ttl=60_000)
    assert backend.incr_and_sum("w@1", lambda: ["w@1"], 1, maximum=1, ttl=60_000)


def test_waiting_threads_are_woken_by_one_notice(watched, wires) -> None:
    with ThreadPoolExecutor(16) as pool:
        woken = [pool.submit(watched.wait, "k", 30_000) for _ in range(16)]
        wires.await_watches(16)
        watched.wait_notify("k", ttl=30_000)
        assert all(future.result(5) for future in woken)


def test_who_waits_without_a_timeout_waits_until_the_notice(watched, wires) -> None:
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(watched.wait, "k", None)
        wires.await_watches()
        watched.wait_notify("k", ttl=30_000)
        assert woken.result(5)


def test_a_wait_leaves_no_subscription_on_its_wire(watched, wires) -> None:
    assert not watched.wait("k", 10)
    assert len(wires.opened) == 1
    with watched._bucket.requester.line() as line:
        heard = subscriptions_heard(line, lambda: watched.wait_notify("k", ttl=30_000))
    assert heard == []


def test_a_notice_given_while_the_connection_was_cut_is_found(own_server, monkeypatch) -> None:
    connection, other = NatsConnection(own_server.url), NatsConnection(own_server.url)
    wires = Wires(connection, monkeypatch)
    waiting, notifying = (NatsRateLimiterBackend(connection=each) for each in (connection, other))
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(waiting.wait, "k", 30_000)
        wires.await_watches()
        wires.may_open.clear()
        own_server.kill()
        own_server.start()
        notifying.wait_notify("k", ttl=30_000)
        wires.may_open.set()
        assert woken.result(30)
    for each in (waiting, notifying, connection, other):
        each.close()


def test_counts_survive_a_restart_of_the_server(own_server) -> None:
    backend = NatsRateLimiterBackend(url=own_server.url)
    limiter = window(backend, "w", 3600, limit=3)
    assert limiter._acquire() and limiter._acquire()
    own_server.kill()
    own_server.start()
    assert limiter._acquire()
    assert not limiter._acquire()
    backend.close()


def test_counts_in_memory_begin_anew_after_a_restart(own_server) -> None:
    """Also where revisions look like those before: what was known of them is forgotten."""
    backend, rival = (
        NatsRateLimiterBackend(url=own_server.url, storage="memory") for _ in range(2)
    )
    assert backend.incr("k", 5, maximum=10, ttl=60_000)
    own_server.kill()
    own_server.start()
    assert rival.incr("k", 1, maximum=10, ttl=60_000)
    assert backend.incr("k", 1, maximum=10, ttl=60_000)
    assert value(rival, "k") == 2
    backend.close()
    rival.close()


def test_sixteen_threads_count_exactly_while_the_server_restarts(own_server) -> None:
    backend = NatsRateLimiterBackend(url=own_server.url)
    reached = threading.Semaphore(0)

    def count(_: int) -> int:
        done = 0
        for _ in range(30):
            done += backend.incr("k", 1, maximum=10**6, ttl=600_000)
            reached.release()
        return done

    with ThreadPoolExecutor(16) as pool:
        counting = pool.map(count, range(16))
        for _ in range(100):
            assert reached.acquire(timeout=30)
        own_server.kill()
        own_server.start()
        assert sum(counting) == 480
    assert value(backend, "k") == 480
    backend.close()


def test_a_bucket_that_was_deleted_is_made_anew(backend, connection) -> None:
    async def delete() -> None:
        await connection.jetstream.delete_stream(backend._bucket.stream)

    assert backend.add("k", 1, ttl=60_000)
    connection.run(delete())
    assert backend.add("k", 1, ttl=60_000)
    connection.run(delete())
    assert backend.incr_and_sum("w@1", lambda: ["w@1"], 1, maximum=1, ttl=60_000)
    connection.run(delete())
    assert backend.incr_and_sum("a", lambda: ["a", "b"], 1, maximum=1, ttl=60_000)


def test_closing_leaves_neither_thread_nor_socket(nats_server) -> None:
    threads, files = set(threading.enumerate()), os.listdir("/proc/self/fd")
    backend = NatsRateLimiterBackend(url=nats_server.url, namespace=f"l{uuid.uuid4().hex[:8]}")
    assert backend.add("k", 1, ttl=60_000)
    assert not backend.wait("k", 1)
    backend.close()
    backend.close()
    assert set(threading.enumerate()) == threads
    assert os.listdir("/proc/self/fd") == files


def test_a_backend_that_is_forgotten_leaves_no_socket(connection) -> None:
    backend = NatsRateLimiterBackend(connection=connection, namespace=f"l{uuid.uuid4().hex[:8]}")
    connection.run(connection.client.flush())  # its own files are open by now
    files = os.listdir("/proc/self/fd")
    assert backend.add("k", 1, ttl=60_000)
    assert os.listdir("/proc/self/fd") != files
    del backend
    assert os.listdir("/proc/self/fd") == files


def test_a_forked_child_counts_along(backend) -> None:
    assert backend.incr("k", 1, maximum=10, ttl=60_000)
    with backend._changes._turn("k"):  # a thread is changing the key at the moment of the fork
        child = multiprocessing.get_context("fork").Process(target=count_in_a_child, args=[backend])
        child.start()
        assert backend.wait("counted", 30_000)
    child.join(30)
    assert child.exitcode == 0
    assert backend.incr("k", 1, maximum=10, ttl=60_000)
    assert value(backend, "k") == 3


def count_in_a_child(backend: NatsRateLimiterBackend) -> None:
    assert backend.incr("k", 1, maximum=10, ttl=60_000)
    backend.wait_notify("counted", ttl=60_000)
    backend.close()
