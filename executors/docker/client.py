"""One connection pool to one Engine, made when it is first needed."""

from __future__ import annotations

import socket
import threading

from docker import APIClient

from executors.docker.convert import Engine
from executors.docker.errors import engine_errors
from executors.docker.images import Images

TIMEOUT = 60
"""Seconds that the Engine may take for an answer; streams and waits have no such limit."""
POOL_SIZE = 64
"""Connections kept open for the threads of a worker."""


class Client:
    """What all workspaces of an executor share, from many threads."""

    def __init__(self, host: str) -> None:
        """`host` is an address like `unix:///var/run/docker.sock`; it is not asked yet."""
        self.host = host
        self.images = Images()
        self._lock = threading.Lock()
        self._api: APIClient | None = None
        self._engine: Engine | None = None

    @property
    def api(self) -> APIClient:
        """The SDK's client. Raises InfrastructureError when there is no Engine to talk to."""
        with self._lock, engine_errors(f"connecting to {self.host}"):
            if self._api is None:
                knock(self.host)
                self._api = APIClient(
                    self.host,
                    version="auto",
                    timeout=TIMEOUT,
                    num_pools=POOL_SIZE,
                    max_pool_size=POOL_SIZE,
                )
            return self._api

    @property
    def engine(self) -> Engine:
        """What the Engine's machine can do; asked once. Raises InfrastructureError."""
        api = self.api
        with engine_errors("asking the Engine about its machine"):
            if self._engine is None:
                self._engine = Engine.from_info(api.info())
            return self._engine

    def close(self) -> None:
        """The next use connects anew."""
        with self._lock:
            if self._api is not None:
                self._api.close()
            self._api = None


def knock(host: str) -> None:
    """Raises OSError in plain words when nobody listens on a local socket; the SDK would leave one
    open, and bury the reason."""
    path = host.removeprefix("unix://")
    if path != host:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
