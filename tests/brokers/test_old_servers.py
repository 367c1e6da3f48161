"""Servers that lack what the newest one has."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq import Worker

from brokers.embedded import EmbeddedNats
from brokers.nats import NatsBroker
from brokers.nats.errors import JetStreamError
from tests.brokers.old_servers import fetch_server
from tests.conftest import unavailable

WITHOUT_SCHEDULES = "2.11.11"
WITHOUT_TTLS = "2.10.26"


@pytest.fixture(scope="module")
def old_server(request, tmp_path_factory) -> Iterator[EmbeddedNats]:
    directory = tmp_path_factory.mktemp("old")
    try:
        program = fetch_server(request.param, directory)
    except subprocess.CalledProcessError as error:
        unavailable(f"nats-server {request.param} cannot be fetched: {error.stderr.decode()}")
    with EmbeddedNats(directory / "data", program=program) as server:
        yield server


@pytest.mark.parametrize("old_server", [WITHOUT_SCHEDULES], indirect=True)
def test_without_schedules_the_workers_count_the_delays(old_server) -> None:
    broker = NatsBroker(url=old_server.url, namespace="counted")
    ran, done = [], threading.Event()

    def note(name: str) -> None:
        ran.append((name, time.monotonic()))
        if len(ran) == 3:
            done.set()

    actor = dramatiq.actor(note, broker=broker, actor_name="note", queue_name="q")
    worker = Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    start = time.monotonic()
    actor.send_with_options(args=("late",), delay=1_500)
    actor.send_with_options(args=("soon",), delay=400)
    actor.send("now")
    assert done.wait(20)
    assert [name for name, _ in ran] == ["now", "soon", "late"]
    assert ran[2][1] - start >= 1.5
    broker.join("q", timeout=10_000)
    worker.stop()
    broker.close()


@pytest.mark.parametrize("old_server", [WITHOUT_SCHEDULES], indirect=True)
def test_without_schedules_a_delayed_message_waits_for_a_worker_and_is_counted(old_server) -> None:
    broker = NatsBroker(url=old_server.url, namespace="waits")
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    sent = actor.send_with_options(delay=60_000)
    assert sent.queue_name == "q.DQ"
    assert broker.get_queue_message_counts("q") == (0, 1, 0)
    assert broker.get_declared_delay_queues() == {"q.DQ"}
    consumer = broker.consume("q.DQ", timeout=5_000)
    assert next(consumer).message_id == sent.message_id
    assert broker.get_queue_message_counts("q") == (0, 1, 0)
    broker.flush("q")
    assert broker.get_queue_message_counts("q") == (0, 0, 0)
    consumer.close()
    broker.close()


@pytest.mark.parametrize("old_server", [WITHOUT_TTLS], indirect=True)
def test_a_server_without_ttls_is_refused_with_what_is_needed(old_server) -> None:
    broker = NatsBroker(url=old_server.url, namespace="old")
    actor = dramatiq.actor(print, broker=broker, actor_name="a", queue_name="q")
    with pytest.raises(JetStreamError, match=r"2\.11 or newer"):
        actor.send()
    broker.close()


def test_a_bound_in_bytes_costs_the_schedules_but_not_the_delays(nats_server) -> None:
    broker = NatsBroker(url=nats_server.url, namespace="bounded", max_bytes=10_000_000)
    done = threading.Event()
    actor = dramatiq.actor(done.set, broker=broker, actor_name="a", queue_name="q")
    worker = Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    start = time.monotonic()
    actor.send_with_options(delay=1_200)
    assert done.wait(10)
    assert time.monotonic() - start >= 1.2
    broker.join("q", timeout=10_000)
    worker.stop()
    broker.close()
