"""What is measured: the API of a checkout, with a NATS server of its own, and the floors.

with Api(directory, checkout) as api:   api.port, api.pids, api.cpu()
with Floor(directory) as floor:         the same gunicorn, serving a constant
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from app.commands import web_command
from app.launch import ROOT
from brokers.embedded import EmbeddedNats, die_with_parent
from tests.acceptance import processes
from tests.acceptance.processes import Process, base_environment, free_port

_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Api:
    """`hades api` of a checkout, run by this Python."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        directory.mkdir()
        self.checkout = checkout
        self.port = free_port()
        self._directory = directory
        self._nats = EmbeddedNats(directory / "nats")

    def __enter__(self) -> Self:
        self._nats.start()
        self.nats_url = self._nats.url
        processes.HADES = (sys.executable, str(self.checkout / "app" / "launch.py"))
        self._process = Process(
            "api",
            "api",
            directory=self._directory,
            environment={"NATS_URL": self._nats.url, "API_PORT": str(self.port)},
        )
        self._process.await_answer(f"http://127.0.0.1:{self.port}/ping")
        return self

    @property
    def pids(self) -> list[int]:
        """Of gunicorn and the processes that serve."""
        return [self._process.pid, *self._process.children()]

    def cpu(self) -> float:
        """Seconds that the API and NATS have computed so far."""
        return sum(map(cpu, (*self.pids, self._nats.pid)))

    def rss(self) -> int:
        """Resident bytes of the API's processes together."""
        return sum(map(rss, self.pids))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stop()
        self._nats.stop()


class Floor:
    """gunicorn, run as the API is, and a Flask application that answers a constant."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            bind = f"fd://{listening.fileno()}"
            command = web_command(
                "benchmarks.api_floors:constant()", bind=bind, processes=2, threads=32
            )
            self._process = subprocess.Popen(
                command.argv,
                env={**base_environment(), "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,
                pass_fds=(listening.fileno(),),
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()


def cpu(pid: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
