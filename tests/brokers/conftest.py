"""A real nats-server for every test module that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers.embedded import EmbeddedNats
from brokers.nats.connection import NatsConnection


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNats]:
    with EmbeddedNats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    """One that the test may stop and kill."""
    with EmbeddedNats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def connection(nats_server: EmbeddedNats) -> Iterator[NatsConnection]:
    connection = NatsConnection(nats_server.url)
    yield connection
    connection.close()
