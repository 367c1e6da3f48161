"""The network of a sandbox's own, by slirp4netns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from executors.errors import ExecutorUnavailable
from executors.job import Step
from executors.sandbox.executor import SandboxExecutor
from tests.conftest import unavailable
from tests.executors.sandboxes import IMAGE, data_directory, run, sandbox_executor

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with data_directory() as path:
        yield path


FETCH = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 10.0.2.2 {port}"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a web server on the host's loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the host")

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def with_network(data_dir: Path) -> SandboxExecutor:
    executor = sandbox_executor(data_dir, network="bridge")
    try:
        executor.check()
    except ExecutorUnavailable as error:
        unavailable(str(error))
    return executor


@pytest.mark.usefixtures("with_network")
def test_the_hosts_loopback_is_reached_only_if_the_settings_allow_it(
    data_dir: Path, port: int
) -> None:
    step = Step(image=IMAGE, script=FETCH.format(port=port), network="bridge")
    _, sink = run(sandbox_executor(data_dir, host_loopback=True), step)
    assert b"from the host" in sink.stdout
    result, sink = run(sandbox_executor(data_dir), step)
    assert (result.exit_code, sink.stdout) == (1, b"")


def test_the_network_is_up_before_the_step_and_gone_after_it(
    with_network: SandboxExecutor,
) -> None:
    step = Step(image=IMAGE, script="ip -o -4 addr show tap0; cat /etc/resolv.conf")
    _, sink = run(with_network, step)
    assert b"inet 10.0.2.100/24" in sink.stdout
    assert b"nameserver 10.0.2.3" in sink.stdout
    own = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm").read_text() for pid in own]
    assert "slirp4netns\n" not in names


def test_a_step_with_a_network_ends_when_its_time_is_up(with_network: SandboxExecutor) -> None:
    result, sink = run(with_network, Step(image=IMAGE, script="echo begun; sleep 600"), 5.0)
    assert result.timed_out
    assert sink.stdout == b"begun\n"
