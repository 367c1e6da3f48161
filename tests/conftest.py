"""Services that tests share: one that is missing is skipped at a desk, and fails in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from brokers.embedded import EmbeddedNats
from brokers.nats.connection import NatsConnection
from executors.errors import ExecutorUnavailable
from executors.settings import DockerSettings

# The same examples everywhere, however slow the machine is. To look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def unavailable(what: str) -> None:
    """End the test: skipped with its reason, or failed where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def engine() -> DockerSettings:
    """How to reach a running Docker Engine."""
    from executors.docker.executor import DockerExecutor

    settings = DockerSettings(host=os.environ.get("DOCKER_HOST") or DockerSettings().host)
    executor = DockerExecutor(settings, "tests")
    try:
        executor.check()
    except ExecutorUnavailable as error:
        unavailable(str(error))
    finally:
        executor.close()
    return settings


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNats]:
    """A real nats-server, shared: tests keep apart by the ids and names they use."""
    with EmbeddedNats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    """One that the test may stop and kill."""
    with EmbeddedNats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def connection(nats_server: EmbeddedNats) -> Iterator[NatsConnection]:
    """To the shared server."""
    connection = NatsConnection(nats_server.url)
    yield connection
    connection.close()
