"""Sixteen threads in each of two processes, all at the same limiter."""

from __future__ import annotations

import json
import multiprocessing
import uuid
from collections.abc import Callable

import pytest

from brokers.nats import NatsRateLimiterBackend
from tests.brokers import limit_processes
from tests.brokers.limit_processes import THREADS, Tally, Task

PROCESSES = 2


@pytest.fixture
def backend(connection) -> NatsRateLimiterBackend:
    return NatsRateLimiterBackend(connection=connection, namespace=f"p{uuid.uuid4().hex[:8]}")


@pytest.fixture
def tallies(nats_server, backend) -> Callable[[str, int], list[Tally]]:
    def run(what: str, times: int) -> list[Tally]:
        """What every process says that it did."""
        namespace, context = backend._bucket.name, multiprocessing.get_context("spawn")
        task = Task(url=nats_server.url, namespace=namespace, what=what, times=times)
        start = context.Barrier(PROCESSES)
        with context.Pool(PROCESSES, limit_processes.be_ready, [start]) as pool:
            return pool.map_async(limit_processes.run, [task] * PROCESSES, chunksize=1).get(100)

    return run


def total(tallies: list[Tally]) -> int:
    return sum(tally.done for tally in tallies)


def test_no_increment_is_lost(tallies, backend) -> None:
    done = tallies("count", 25)
    assert total(done) == PROCESSES * THREADS * 25
    assert int(backend._bucket.get("n").value) == total(done)


@pytest.mark.parametrize("what", ["count to 100", "bucket of 100", "window of 100"])
def test_exactly_as_many_get_through_as_may(tallies, what) -> None:
    assert total(tallies(what, 10)) == 100


def test_no_count_of_a_window_is_lost(tallies, backend) -> None:
    done = tallies("large window", 25)
    assert total(done) == PROCESSES * THREADS * 25
    counts = json.loads(backend._bucket.get(("w", "window")).value)
    assert sum(count for count, _ in counts.values()) == total(done)


def test_a_sum_over_keys_that_have_nothing_in_common_is_exact(tallies) -> None:
    assert total(tallies("scattered 20", 3)) == 20


def test_never_more_are_inside_than_may_be_and_all_get_in(tallies) -> None:
    assert total(tallies("enter", 2)) == PROCESSES * THREADS * 2


def test_all_parties_of_a_barrier_meet(tallies) -> None:
    assert total(tallies("meet", 1)) == PROCESSES * THREADS


def test_no_process_is_kept_out_until_the_other_is_through(tallies) -> None:
    """With equal work both end at about the same time: they shared."""
    first, second = tallies("large window", 60)
    shorter, longer = sorted((first.seconds, second.seconds))
    assert longer < 3 * shorter + 1
