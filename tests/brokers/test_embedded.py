import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import nats
import pytest
from nats.js.api import StreamConfig

from brokers.embedded import EmbeddedNats, EmbeddedNatsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    with EmbeddedNats(tmp_path / "nats") as running:
        yield running


def keep(url: str, body: bytes) -> None:
    """Put one message into a stream that is kept on disk."""

    async def put() -> None:
        client = await nats.connect(url)
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name="KEPT", subjects=["kept"]))
        await jetstream.publish("kept", body)
        await client.close()

    asyncio.run(put())


def kept(url: str) -> bytes:
    """The message that `keep` put there."""

    async def get() -> bytes:
        client = await nats.connect(url)
        message = await client.jetstream().get_last_msg("KEPT", "kept")
        await client.close()
        return message.data or b""

    return asyncio.run(get())


def ended(pid: int) -> None:
    """Wait until the process, a child of nobody here, is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor):
        assert select.select([descriptor], [], [], 30)[0], "it outlives its owner"


def test_a_client_can_connect_as_soon_as_it_is_started(server: EmbeddedNats) -> None:
    keep(server.url, b"a job")

    assert kept(server.url) == b"a job"


def test_two_servers_do_not_get_in_each_others_way(server: EmbeddedNats, tmp_path: Path) -> None:
    with EmbeddedNats(tmp_path / "other") as other:
        assert other.port != server.port


def test_a_restart_keeps_port_and_data(server: EmbeddedNats) -> None:
    url, pid = server.url, server.pid
    keep(url, b"a job")

    server.restart()

    assert (server.url, kept(url)) == (url, b"a job")
    assert server.pid != pid


def test_a_killed_server_comes_back_with_its_port_and_data(server: EmbeddedNats) -> None:
    url = server.url
    keep(url, b"a job")

    server.kill()
    server.start()

    assert (server.url, kept(url)) == (url, b"a job")


def test_it_listens_on_the_port_it_is_given(server: EmbeddedNats, tmp_path: Path) -> None:
    free = server.port
    server.stop()

    with EmbeddedNats(tmp_path / "given", port=free) as given:
        assert given.url == f"nats://127.0.0.1:{free}"
        keep(given.url, b"a job")


def test_a_taken_port_is_an_error_that_quotes_the_log(server: EmbeddedNats, tmp_path: Path) -> None:
    second = EmbeddedNats(tmp_path / "second", port=server.port)

    with pytest.raises(EmbeddedNatsError, match="address already in use"):
        second.start()


def test_stopping_twice_is_no_error_and_leaves_no_process(server: EmbeddedNats) -> None:
    pid = server.pid

    server.stop()
    server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EmbeddedNatsError, match="does not run"):
        _ = server.pid


def test_its_owner_learns_when_it_ends(server: EmbeddedNats) -> None:
    os.kill(server.pid, signal.SIGKILL)

    assert server.wait() == -signal.SIGKILL


def test_it_writes_its_log_into_its_data_directory(server: EmbeddedNats) -> None:
    assert "Server is ready" in server.log_file.read_text()


def test_it_has_no_url_before_its_first_start(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedNatsError, match="never started"):
        _ = EmbeddedNats(tmp_path).url


def test_it_outlives_the_thread_that_started_it(server: EmbeddedNats) -> None:
    thread = Thread(target=server.restart)
    thread.start()
    thread.join()

    keep(server.url, b"a job")

    assert kept(server.url) == b"a job"


OWNER = """
import sys
from pathlib import Path
from brokers.embedded import EmbeddedNats

with EmbeddedNats(Path(sys.argv[1])) as nats:
    print(nats.pid, flush=True)
    sys.stdin.read()
"""


def test_it_does_not_outlive_an_owner_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())

        owner.kill()

        ended(pid)
