import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted_server import Server, log_frame, serving, state_frame

from app import commands
from app.cli import main
from app.cli_settings import CliSettings
from app.launch import ROOT


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def submit(server: Server, *options: str, job: str = '{"name": "x"}') -> Result:
    urls = ["--url", server.url, "--logs-url", server.url]
    return CliRunner().invoke(main, ["submit", "-", *urls, *options], input=job)


def becomes(command: str, tmp_path: Path, dotenv: str = "", **variables: str) -> Any:
    """What `hades COMMAND` turns into: its argv, env and pid, and the pid it was started with."""
    report = tmp_path / "report.py"
    report.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'argv': sys.argv, 'env': dict(os.environ), 'pid': os.getpid()}))\n"
    )
    tmp_path.joinpath(".env").write_text(dotenv)
    start = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from app import cli, commands;"
        f"commands._python = lambda *argv: ({sys.executable!r}, {str(report)!r}, *argv);"
        "cli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", start, *command.split()],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **variables},
    ) as process:
        assert process.stdout is not None
        return {**json.load(process.stdout), "started": process.pid}


def test_help_names_all_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])

    for command in (
        "api",
        "logs",
        "worker",
        "images",
        "callbacks",
        "submit",
        "dev",
        "demo",
        "keys",
    ):
        assert f"  {command} " in result.output


def test_submit_prints_the_id_that_the_api_gave(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"name": "from a file"}')

    result = CliRunner().invoke(main, ["submit", str(file), "--url", server.url])

    assert (result.exit_code, result.stdout) == (0, "00000000-0000-0000-0000-000000000007\n")
    assert server.seen[0][2] == b'{"name": "from a file"}'


def test_submit_refused_by_the_api_exits_2_with_its_text(server: Server) -> None:
    server.answer = (400, b'Invalid request payload: "name" is required')

    result = submit(server, job="{}")

    assert (result.exit_code, result.stdout) == (2, "")
    assert 'Invalid request payload: "name" is required' in result.stderr


def test_submit_without_a_server_exits_3() -> None:
    result = CliRunner().invoke(main, ["submit", "-", "--url", "http://127.0.0.1:1"], input="{}")

    assert result.exit_code == 3


def test_follow_prints_lines_on_the_stream_they_came_from(server: Server) -> None:
    server.streams = [
        log_frame("to stdout") + log_frame("to stderr", stream="stderr") + state_frame("Succeeded")
    ]

    result = submit(server, "--follow")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == ["to stdout"]
    assert result.stderr == "to stderr\n"


@pytest.mark.parametrize("state", ["Failed", "Stopped"])
def test_a_job_that_does_not_succeed_exits_1_with_its_reason(server: Server, state: str) -> None:
    server.streams = [log_frame("a line") + state_frame(state, "step 1 failed")]

    result = submit(server, "--wait")

    assert result.exit_code == 1
    assert "a line" not in result.output
    assert f"{state}: step 1 failed" in result.stderr


def test_api_becomes_gunicorn_on_api_port(tmp_path: Path) -> None:
    became = becomes("api", tmp_path, API_PORT="9000", WEB_CONCURRENCY="3")

    assert became["pid"] == became["started"], "a signal must reach it directly"
    argv = " ".join(became["argv"])
    assert "gunicorn" in argv and argv.endswith("app.factory:api()")
    assert "--bind 0.0.0.0:9000" in argv and "--workers 3" in argv


def test_logs_becomes_one_gunicorn_process_on_its_port(tmp_path: Path) -> None:
    became = becomes("logs", tmp_path, HADESLOGMANAGER_API_PORT="9001")

    argv = " ".join(became["argv"])
    assert argv.endswith("app.factory:logs()")
    assert "--bind 0.0.0.0:9001" in argv and "--workers 1" in argv


def test_a_worker_prefetches_no_more_than_it_runs_at_once(tmp_path: Path) -> None:
    became = becomes("worker", tmp_path, CONCURRENCY="4")

    argv = " ".join(became["argv"])
    assert "dramatiq workers.main:setup" in argv and "--processes 1 --threads 4" in argv
    assert became["env"]["dramatiq_queue_prefetch"] == "4"


def test_callbacks_passes_its_arguments_on(tmp_path: Path) -> None:
    became = becomes("callbacks replay --all", tmp_path)

    assert became["argv"][1:] == ["app.logs.callbacks.main", "replay", "--all"]


def test_images_passes_its_arguments_on(tmp_path: Path) -> None:
    became = becomes("images pull --help alpine", tmp_path)

    assert became["argv"][1:] == ["workers.images", "pull", "--help", "alpine"]


def test_a_dotenv_file_is_read_but_the_environment_wins(tmp_path: Path) -> None:
    dotenv = "CONCURRENCY=4\nNATS_URL=nats://elsewhere\n"
    became = becomes("worker", tmp_path, dotenv, CONCURRENCY="2")

    assert became["env"]["dramatiq_queue_prefetch"] == "2"
    assert became["env"]["NATS_URL"] == "nats://elsewhere"


def test_a_setting_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "eighty")

    result = CliRunner().invoke(main, ["api"])

    assert result.exit_code == 2
    assert "API_PORT" in result.stderr


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    became = becomes("worker", tmp_path, CONCURRENCY="")

    assert became["env"]["dramatiq_queue_prefetch"] == "1"


def test_the_houses_own_root_comes_first_on_the_import_path() -> None:
    for command in (commands.api_command(CliSettings()), commands.worker_command(CliSettings())):
        assert command.env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_launch_runs_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    launch = [sys.executable, str(ROOT / "app" / "launch.py"), "--help"]

    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, "Usage" in done.stdout) == (0, True), done.stderr
