"""A Redis and a RabbitMQ of the tests' own: real servers on free ports of the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.broker_servers import installed, running


class ServerMissing(Exception):
    """Its package, or the client library for it, is not installed."""


@contextmanager
def rival_server(kind: str, directory: Path) -> Iterator[str]:
    """Its URL; `kind` is "redis" or "rabbitmq". Raises ServerMissing."""
    if not installed(kind):
        raise ServerMissing(f"there is no {kind} here: apt-get install {kind}-server")
    with running(kind, directory / kind, sync=False) as server:
        yield server.url
