"""What docs/broker.md shows, and the project that it points to, run as they are printed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from brokers.nats import NatsBroker
from brokers.nats.servers import ConnectArguments
from tests.docs.test_documents import ROOT, blocks

PAGE = ROOT / "docs/broker.md"
PROJECT = ROOT / "examples/dramatiq_project"


def documented_arguments() -> set[str]:
    cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_argument_of_the_broker_is_documented_and_no_other() -> None:
    named = set(inspect.signature(NatsBroker.__init__).parameters) - {"self", "login"}
    known = named | set(ConnectArguments.__annotations__)
    explained_elsewhere = {"url", "servers", "middleware", "connection"}
    documented = documented_arguments()
    assert known - documented - explained_elsewhere == set()
    assert documented - known - {"enqueue", "ConnectionClosed"} == set()


def test_the_code_on_the_page_runs_as_it_is_printed(nats_server) -> None:
    [code] = blocks(PAGE, "python")
    code = code.replace("nats://localhost:4222", nats_server.url)
    check = "\nprint(add.send(1, 2).queue_name)\nbroker.flush('default')\nbroker.close()\n"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("default\n", 0), done.stderr


def test_the_example_project_runs_with_dramatiqs_own_command(nats_server, tmp_path: Path) -> None:
    environment = {**os.environ, "NATS_URL": nats_server.url, "PYTHONPATH": str(PROJECT)}
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "dramatiq", "tasks", "-p", "1", "-t", "2"],
            env=environment,
            cwd=PROJECT,
            stderr=output,
        )
    try:
        sent = subprocess.run(
            [sys.executable, "main.py", "to be or not to be", "the rest is silence"],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert sent.stdout == "  6 to be or not to be\n  4 the rest is silence\n", sent.stderr
        broker = NatsBroker(url=nats_server.url, namespace="words", max_priority=1)
        broker.join("default", timeout=30_000)
        broker.close()
    finally:
        worker.terminate()
        worker.wait(30)
    lines = printed.read_text().splitlines()
    assert lines.count("counted 2 texts") == 1
    assert lines.count("do not forget: to be or not to be") == 1
