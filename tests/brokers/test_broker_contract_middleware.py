"""The rest of Dramatiq's middleware on every broker: the same tests for four of them."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Iterator
from types import ModuleType

import dramatiq
import pytest
from dramatiq.middleware import AsyncIO, CurrentMessage, Retries
from dramatiq.results import Results

from tests.brokers.contract.support import Recorder, until

# --- the message at hand


def test_an_actor_knows_its_message(open_broker, queue, start_worker, journal) -> None:
    broker = open_broker(CurrentMessage())

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(number):
        message = CurrentMessage.get_current_message()
        journal.note((message.message_id, message.args))

    sent = [work.send(number) for number in range(10)]
    start_worker(broker, threads=4)
    expected = [(message.message_id, message.args) for message in sent]
    assert sorted(journal.wait_for(10)) == sorted(expected)
    assert CurrentMessage.get_current_message() is None


# --- coroutines


def test_actors_may_be_coroutines(open_broker, queue, start_worker, results) -> None:
    broker = open_broker(AsyncIO(), Results(backend=results, store_results=True))
    threads = 4
    together = threading.Barrier(threads)

    @dramatiq.actor(broker=broker, queue_name=queue)
    async def work(number):
        await asyncio.get_running_loop().run_in_executor(None, together.wait, 10)
        return 2 * number

    sent = [work.send(number) for number in range(threads)]
    worker = start_worker(broker, threads=threads)
    got = [each.get_result(backend=results, block=True, timeout=10_000) for each in sent]
    assert got == [0, 2, 4, 6]
    worker.stop()


def test_a_coroutine_that_fails_is_run_again(open_broker, queue, start_worker, journal) -> None:
    broker = open_broker(AsyncIO(), Retries(min_backoff=20, max_backoff=50))

    @dramatiq.actor(broker=broker, queue_name=queue)
    async def work():
        await asyncio.sleep(0)
        journal.note("ran")
        if len(journal.entries) < 3:
            raise ValueError("not yet")

    worker = start_worker(broker)
    work.send()
    journal.wait_for(3)
    assert journal.stays_at(3)
    worker.stop()


# --- metrics


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Dramatiq's module, which reads the directory of its metrics while it is imported."""
    directory = str(tmp_path_factory.mktemp("prometheus"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dramatiq_prom_db", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
            patch.setenv(name, directory)
        yield importlib.import_module("dramatiq.middleware.prometheus")


def exposed(prometheus: ModuleType, queue: str) -> dict[str, float]:
    """What a scrape would show of the queue, without histograms."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=prometheus.DB_PATH)
    return {
        sample.name.removeprefix("dramatiq_"): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.labels.get("queue_name") == queue and "duration" not in sample.name
    }


def test_prometheus_counts_what_runs_fails_and_dies(
    open_broker, queue, start_worker, journal, prometheus
) -> None:
    broker = open_broker(
        Recorder(journal, "after_nack"),  # comes last
        prometheus.Prometheus(),
        Retries(max_retries=1, min_backoff=20),
    )

    @dramatiq.actor(broker=broker, queue_name=queue, max_backoff=50)
    def work(fail):
        if fail:
            raise ValueError("broken")

    start_worker(broker)
    work.send(True)
    for _ in range(3):
        work.send(False)
    expected = {
        "messages_total": 5.0,
        "message_errors_total": 2.0,
        "message_rejects_total": 1.0,
    }
    journal.wait_for(1)
    until(
        lambda: expected.items() <= exposed(prometheus, queue).items(),
        f"the metrics are {expected}",
    )
