import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
import stand_in

from app.cli_settings import CliSettings
from app.dev import DevError, DevOptions, choose_executor, listen


@pytest.fixture(scope="module")
def hades(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The argv of a `hades` whose programs are stand-ins, and the root of it."""
    root = tmp_path_factory.mktemp("house")
    return stand_in.build(root), root


Hades = tuple[list[str], Path]


@contextmanager
def running(
    hades: Hades, cwd: Path, *arguments: str, **env: str
) -> Iterator[subprocess.Popen[str]]:
    argv, root = hades
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "HOME": str(cwd), **env}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*argv, *arguments], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def until_ready(output: IO[str]) -> dict[str, str]:
    """What `hades dev` says that it started, by name."""
    said = {}
    for line in output:
        if " | " not in line and not line.startswith(" "):
            name, value = line.split(maxsplit=1)
            said[name] = value.strip()
        if line.startswith("ready"):
            return said
    raise AssertionError("it ended before it was ready")


def free_ports() -> list[str]:
    """Options that keep a stack away from the default ports of a developer's own."""
    options = []
    for name in ("--api-port", "--logs-port", "--nats-port"):
        with listen(None, 0) as listening:
            options += [name, str(listening.getsockname()[1])]
    return options


def dev(hades: Hades, cwd: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return running(hades, cwd, "dev", "--executor", "dummy", *free_ports())


def await_gone(pids: list[int]) -> None:
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(descriptor):
            assert select.select([descriptor], [], [], 60)[0], f"process {pid} is still there"


def tree(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            found.append((int(entry.name), parent_of(entry)))
    descendants, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in found if parent in fresh]
        descendants += fresh
    return descendants


def parent_of(entry: Path) -> int:
    try:
        return int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_dev_says_what_it_started_and_all_of_it_answers(hades: Hades, tmp_path: Path) -> None:
    with dev(hades, tmp_path) as process:
        said = until_ready(process.stdout)

        assert said["executor"] == "dummy (asked for by --executor)"
        assert said["data"] == str(tmp_path / ".hades")
        assert httpx.get(said["api"] + "/ping").json() == {"status": "ok"}
        assert httpx.get(said["logs"] + "/health").json() == {"status": "ok"}
        with socket.create_connection(("127.0.0.1", int(said["nats"].rpartition(":")[2]))) as nats:
            assert nats.recv(4) == b"INFO"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_in_order(hades: Hades, tmp_path: Path, signum: int) -> None:
    with dev(hades, tmp_path) as process:
        until_ready(process.stdout)
        started = tree(process.pid)

        process.send_signal(signum)

        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert len(started) >= 7, "nats, two gunicorns and dramatiq with a process each"
    await_gone(started)


def test_the_end_of_one_program_is_the_end_of_all(hades: Hades, tmp_path: Path) -> None:
    with dev(hades, tmp_path) as process:
        until_ready(process.stdout)
        started = tree(process.pid)
        worker = next(pid for pid in started if b"dramatiq" in argv_of(pid))

        os.kill(worker, signal.SIGKILL)

        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "Error: worker was ended by SIGKILL, unexpectedly\n"
    await_gone([pid for pid in started if pid != worker])


def argv_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_end_of_nats_is_the_end_of_all(hades: Hades, tmp_path: Path) -> None:
    with dev(hades, tmp_path) as process:
        until_ready(process.stdout)
        nats = next(pid for pid in tree(process.pid) if b"nats-server" in argv_of(pid))

        os.kill(nats, signal.SIGKILL)

        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nats was ended by SIGKILL" in errors


def test_nothing_outlives_a_dev_that_is_killed(hades: Hades, tmp_path: Path) -> None:
    with dev(hades, tmp_path) as process:
        until_ready(process.stdout)
        started = tree(process.pid)

        process.kill()

        await_gone(started)


def test_a_given_port_that_is_taken_is_an_error(hades: Hades, tmp_path: Path) -> None:
    with listen(None, 0) as taken:
        port = str(taken.getsockname()[1])
        with running(hades, tmp_path, "dev", "--api-port", port) as process:
            _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors == f"Error: port {port} is taken: Address already in use\n"


def test_a_default_port_that_is_taken_gives_way_to_the_next_free_one() -> None:
    with listen(None, 20_000) as first, listen(None, 20_000) as second:
        assert second.getsockname()[1] > first.getsockname()[1] >= 20_000


def test_listening_on_a_given_port_that_is_taken_raises() -> None:
    with listen(None, 0) as taken, pytest.raises(DevError, match="is taken"):
        listen(taken.getsockname()[1], 0)


def test_a_program_that_cannot_start_is_told_by_the_demo_with_its_log(
    hades: Hades, tmp_path: Path
) -> None:
    argv, _ = hades
    broken = tmp_path / "house"
    stand_in.build(broken)
    (broken / "workers" / "main.py").write_text("raise RuntimeError('no such executor')")

    with running((argv, broken), tmp_path, "demo", "--executor", "dummy") as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "worker ended with exit code" in errors
    assert "worker | RuntimeError: no such executor" in errors


def test_the_demo_runs_its_job_and_leaves_nothing_behind(hades: Hades, tmp_path: Path) -> None:
    with running(hades, tmp_path, "demo", "--executor", "dummy", TMPDIR=str(tmp_path)) as process:
        output, errors = process.communicate(timeout=60)

    lines = output.splitlines()
    assert (process.returncode, errors, lines[-1]) == (0, "", "Succeeded")
    assert [line for line in lines if line.startswith("[")] == [
        "[Write] ran alpine:latest",
        "[Transform] ran ubuntu:latest",
        "[Print] ran python:3.9-alpine",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_ignores_an_auth_key_of_the_environment(hades: Hades, tmp_path: Path) -> None:
    options = ("demo", "--executor", "dummy")
    with running(hades, tmp_path, *options, AUTH_KEY="key") as process:
        output, _ = process.communicate(timeout=60)

    assert output.endswith("Succeeded\n")


def choose(executor: str = "", asked: str = "", docker_host: str = "unix:///no/such.sock") -> str:
    settings = CliSettings(executor=executor, docker_host=docker_host)
    return choose_executor(DevOptions(executor=asked), settings).executor


def test_the_option_wins_over_the_variable_which_wins_over_looking() -> None:
    assert choose(executor="docker", asked="dummy") == "dummy"
    assert choose(executor="docker") == "docker"


def test_without_a_docker_engine_the_sandbox_is_chosen(tmp_path: Path) -> None:
    assert choose() == "sandbox"
    assert choose(docker_host="tcp://127.0.0.1:1") == "sandbox"


def test_the_example_jobs_are_jobs() -> None:
    for file in (stand_in.ROOT / "examples").glob("*.json"):
        assert json.loads(file.read_text())["name"]
