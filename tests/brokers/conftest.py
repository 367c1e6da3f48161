"""The servers, brokers and workers of the contract that all brokers are held to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import dramatiq.worker
import pytest
from dramatiq import Middleware, Worker
from dramatiq.broker import Broker, Consumer
from dramatiq.errors import BrokerConnectionError
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.results import ResultBackend

from tests.brokers.contract.promises import UNKEPT
from tests.brokers.contract.support import Gate, Journal
from tests.brokers.contract.vendors import Nats, Rabbitmq, Redis, Stub, Vendor
from tests.brokers.rival_servers import ServerMissing, rival_server
from tests.conftest import unavailable

VENDORS = (Stub.name, Redis.name, Rabbitmq.name, Nats.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A promise that a vendor is known not to keep must fail, and in the way that is known."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            vendor = item.callspec.params.get("vendor")
            broken = UNKEPT.get(item.originalname, {}).get(vendor)
            if broken is not None:
                item.add_marker(broken.mark())


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis of the tests' own."""
    try:
        with rival_server("redis", tmp_path_factory.mktemp("redis")) as url:
            yield url
    except ServerMissing as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real RabbitMQ of the tests' own."""
    try:
        with rival_server("rabbitmq", tmp_path_factory.mktemp("rabbitmq")) as url:
            yield url
    except ServerMissing as error:
        unavailable(str(error))


@pytest.fixture(scope="session", params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """One after the other, with its server."""
    if request.param == Stub.name:
        return Stub()
    if request.param == Redis.name:
        return Redis(request.getfixturevalue("redis_url"))
    if request.param == Rabbitmq.name:
        return Rabbitmq(
            request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("redis_url")
        )
    return Nats(request.getfixturevalue("nats_server").url)


@pytest.fixture
def queue() -> str:
    """A name that no other test uses."""
    return f"q{uuid.uuid4().hex[:10]}"


OpenBroker = Callable[..., Broker]


@pytest.fixture
def open_broker(vendor: Vendor) -> Iterator[OpenBroker]:
    """Brokers with just the given middleware; all of them share what they store."""
    opened: list[Broker] = []

    def open_one(*middleware: Middleware) -> Broker:
        opened.append(vendor.open(middleware))
        opened[-1].emit_after("process_boot")
        return opened[-1]

    yield open_one
    for broker in opened:
        vendor.release(broker)


@pytest.fixture
def broker(open_broker: OpenBroker) -> Broker:
    """One without middleware."""
    return open_broker()


Consume = Callable[..., Consumer]


@pytest.fixture
def consume(open_broker: OpenBroker) -> Iterator[Consume]:
    """Consumers that look for a message for 50 ms at a time, if not told otherwise."""
    consumers: list[Consumer] = []

    def open_one(broker: Broker, queue: str, prefetch: int = 1, timeout: int = 50) -> Consumer:
        consumers.append(broker.consume(queue, prefetch=prefetch, timeout=timeout))
        return consumers[-1]

    yield open_one
    for consumer in consumers:
        with suppress(BrokerConnectionError):  # as Dramatiq does: it may have been closed before
            consumer.close()


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(open_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWorker]:
    """Workers that do not dawdle: Dramatiq waits 3 s before it consumes anew, 5 s to ack anew."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.2)
    workers: list[Worker] = []

    def start(
        broker: Broker,
        threads: int = 2,
        *,
        queues: set[str] | None = None,
        delay_prefetch: int | None = None,
    ) -> Worker:
        worker = Worker(broker, queues=queues, worker_timeout=50, worker_threads=threads)
        worker.delay_prefetch = delay_prefetch or worker.delay_prefetch
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if any(thread.is_alive() for thread in worker.workers):
            worker.stop(timeout=5_000)


@pytest.fixture
def journal() -> Journal:
    """What actors and hooks note."""
    return Journal()


@pytest.fixture
def gate(start_worker: StartWorker) -> Iterator[Gate]:
    """Opened at the end at the latest, before workers are stopped."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def results(vendor: Vendor) -> Iterator[ResultBackend]:
    """The vendor's result backend."""
    backend = vendor.results()
    yield backend
    vendor.release(backend)


@pytest.fixture
def limits(vendor: Vendor) -> Iterator[RateLimiterBackend]:
    """The vendor's rate-limiter backend."""
    backend = vendor.limits()
    yield backend
    vendor.release(backend)
