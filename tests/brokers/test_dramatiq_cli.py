"""Real `dramatiq` processes on our broker, as people start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from dramatiq import Message

from brokers.embedded import EmbeddedNats, die_with_parent
from brokers.nats import NatsBroker
from tests.brokers.contract.support import until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 10.0
QUEUE = "numbers"


class Cli:
    """Command lines of one test, all on one namespace. What they print is in `log`."""

    def __init__(self, url: str, directory: Path) -> None:
        self.log = directory / "log"
        self.started: list[subprocess.Popen[bytes]] = []
        self._ran = directory / "ran"
        self._ran.touch()
        namespace = f"cli{uuid.uuid4().hex[:8]}"
        self.environment = {
            "CLI_TEST_URL": url,
            "CLI_TEST_NAMESPACE": namespace,
            "CLI_TEST_FILE": str(self._ran),
            "CLI_TEST_WORK": "0",
        }
        self.broker = NatsBroker(url=url, namespace=namespace, middleware=[])

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name(command[0])
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [program, *command[1:], "tests.brokers.cli_actors:broker"],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=die_with_parent,
            )
        self.started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """As a service manager would; all of it must end in time, and without complaint."""
        process.send_signal(signal.SIGTERM)
        began = monotonic()
        assert process.wait(3 * STOP_SECONDS) == 0, self.log.read_text()
        assert monotonic() - began < STOP_SECONDS, self.log.read_text()

    def send(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            message = Message(QUEUE, "note", args=(number,), kwargs={}, options={})
            self.broker.enqueue(message)

    def ran(self) -> list[list[int]]:
        """Number and process id, once for each run of the actor."""
        text = self._ran.read_text()
        # The last line may be in the midst of being written.
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [[int(word) for word in line.split()] for line in lines]

    def numbers(self) -> list[int]:
        return sorted(number for number, _ in self.ran())

    def until_ran(self, count: int) -> None:
        until(lambda: len(self.ran()) >= count, f"{count} have run", START_SECONDS)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.broker.close()


@pytest.fixture
def cli(nats_server: EmbeddedNats, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(nats_server.url, tmp_path)
    yield cli
    cli.close()


@pytest.mark.parametrize(
    "command",
    [
        ("dramatiq", "-p", "2", "-t", "4"),
        ("dramatiq", "-p", "2", "-t", "4", "--use-spawn"),
        ("dramatiq-gevent", "-p", "2", "-t", "8"),
    ],
    ids=["fork", "spawn", "gevent"],
)
def test_processes_run_each_message_once_and_end_cleanly(cli: Cli, command) -> None:
    cli.send(range(100))
    process = cli.start(*command)
    cli.until_ran(100)
    cli.send(range(100, 200))  # these find workers that wait
    cli.until_ran(200)
    cli.stop(process)
    assert cli.numbers() == list(range(200))
    assert cli.broker.get_queue_message_counts(QUEUE) == (0, 0, 0)
    cli.broker.join(QUEUE, timeout=1_000)


def test_processes_that_are_replaced_at_work_lose_and_repeat_nothing(cli: Cli) -> None:
    cli.environment["CLI_TEST_WORK"] = "0.02"
    command = ("dramatiq", "-p", "2", "-t", "4")
    cli.send(range(600))
    first = cli.start(*command)
    cli.until_ran(100)
    cli.stop(first)
    assert len(cli.ran()) < 600, "it was not at work any more"
    second = cli.start(*command)
    cli.until_ran(600)
    cli.stop(second)
    assert cli.numbers() == list(range(600))
    assert len({pid for _, pid in cli.ran()}) == 4
