"""Connection pools to one Engine, made when they are first needed."""

from __future__ import annotations

import socket
import threading

from executors.docker.api import EngineClient
from executors.docker.convert import Engine
from executors.docker.errors import engine_errors
from executors.docker.images import Images

TIMEOUT = 60
"""Seconds that the Engine may take for an answer; streams and waits have no such limit."""
PATIENCE = 5
"""The same, where it is only asked whether it is there."""
POOL_SIZE = 64
"""Connections kept open for the threads of a worker."""


class Pool:
    """One client of the SDK, made anew when making it failed."""

    def __init__(self, host: str, timeout: int) -> None:
        self._host = host
        self._timeout = timeout
        self._lock = threading.Lock()
        self._api: EngineClient | None = None

    def get(self) -> EngineClient:
        """Raises InfrastructureError when there is no Engine to talk to."""
        with self._lock, engine_errors(f"connecting to {self._host}"):
            if self._api is None:
                knock(self._host, self._timeout)
                self._api = EngineClient(
                    self._host,
                    version="auto",
                    timeout=self._timeout,
                    num_pools=POOL_SIZE,
                    max_pool_size=POOL_SIZE,
                )
            return self._api

    def close(self) -> None:
        """The next use connects anew."""
        with self._lock:
            if self._api is not None:
                self._api.close()
            self._api = None


class Client:
    """What all workspaces of an executor share, from many threads."""

    def __init__(self, host: str) -> None:
        """`host` is an address like `unix:///var/run/docker.sock`; it is not asked yet."""
        self.host = host
        self.images = Images()
        self._working = Pool(host, TIMEOUT)
        self._asking = Pool(host, PATIENCE)
        self._engine: Engine | None = None

    @property
    def api(self) -> EngineClient:
        """The SDK's client. Raises InfrastructureError when there is no Engine to talk to."""
        return self._working.get()

    @property
    def engine(self) -> Engine:
        """What the Engine's machine can do; asked once. Raises InfrastructureError."""
        api = self.api
        with engine_errors("asking the Engine about its machine"):
            if self._engine is None:
                self._engine = Engine.from_info(api.info())
            return self._engine

    def ping(self) -> None:
        """Raises InfrastructureError when the Engine does not answer soon."""
        api = self._asking.get()
        with engine_errors(f"asking {self.host}"):
            api.ping()

    def close(self) -> None:
        """The next use connects anew."""
        self._working.close()
        self._asking.close()


def knock(host: str, timeout: float) -> None:
    """Raises OSError in plain words when nobody listens on a local socket; the SDK would leave one
    open, and bury the reason."""
    path = host.removeprefix("unix://")
    if path != host:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            try:
                connection.connect(path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
