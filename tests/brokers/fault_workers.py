"""Real workers of the fault tests, and the queue that they work on."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dramatiq import Message

from brokers.embedded import die_with_parent
from brokers.nats import NatsBroker
from tests.acceptance.processes import base_environment, parents, until
from tests.brokers.journal import BOOTED, Journal

ROOT = Path(__file__).parents[2]
QUEUE = "faults"
STOP_SECONDS = 30.0


class Gate:
    """A lock on a file: actors wait for it until the test opens it, or is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w")

    def shut(self) -> None:
        """Whoever comes now waits."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        """Everybody passes."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Open it for ever."""
        self._file.close()


class FaultWorker:
    """`dramatiq tests.brokers.fault_actors`, one worker process, running from now on."""

    def __init__(
        self,
        name: str,
        directory: Path,
        journal: Journal,
        environment: dict[str, str],
        threads: int,
    ) -> None:
        self.name = name
        self.gate = Gate(directory / f"{name}.gate")
        self._journal = journal
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                (
                    *(sys.executable, "-m", "dramatiq", "tests.brokers.fault_actors"),
                    *("--processes", "1", "--threads", str(threads)),
                ),
                cwd=ROOT,
                env={
                    **base_environment(),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONUNBUFFERED": "1",
                    "FAULT_WORKER": name,
                    "FAULT_JOURNAL": str(journal.path),
                    "FAULT_GATE": str(self.gate.path),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs actors, a child of the one that was started."""
        if self._pid is None:
            self._pid = self._journal.await_record(BOOTED, by=lambda r: r.worker == self.name).pid
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether none of its processes has ended."""
        return self._popen.poll() is None and Path(f"/proc/{self.pid}").exists()

    @property
    def ended(self) -> bool:
        """Whether the process that was started has."""
        return self._popen.poll() is not None

    def has_been(self, phase: str) -> bool:
        """Whether the worker itself has reached this point of its life."""
        return any(record.worker == self.name for record in self._journal.records(phase, -1))

    def signal(self, signum: signal.Signals) -> None:
        """To the process that runs actors."""
        os.kill(self.pid, signum)

    def kill(self) -> None:
        """As a machine that loses its power."""
        for pid in (*children(self._popen.pid), self._popen.pid):
            os.kill(pid, signal.SIGKILL)
        self._popen.wait(STOP_SECONDS)

    def terminate(self) -> None:
        """Ask it to end, as a supervisor does."""
        self._popen.terminate()

    def wait(self) -> int:
        """Its exit code."""
        return self._popen.wait(STOP_SECONDS)

    def close(self) -> None:
        """End it at once, if it has not ended, and open its gate for ever."""
        self.gate.close()
        if self._popen.poll() is None:
            self.kill()

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")


class Site:
    """One queue, the workers on it and what they leave behind. Leaving the block ends them."""

    def __init__(self, directory: Path, **options: Any) -> None:
        """`options` are those of NatsBroker, JSON only."""
        self._directory = directory
        self.options = {"namespace": "faults", "ack_wait": 2.0, **options}
        self.journal = Journal(directory / "journal")
        self.broker = self.new_broker()
        self.workers: list[FaultWorker] = []
        self._names = map("worker-{}".format, itertools.count(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.workers:
            worker.close()
            if kind is not None:
                print(f"--- {worker.name}", worker.log()[-3000:], sep="\n")
        self.broker.close()

    def new_broker(self, **options: Any) -> NatsBroker:
        """In this process."""
        return NatsBroker(middleware=[], **{**self.options, **options})

    def start_worker(
        self,
        *,
        threads: int = 1,
        prefetch: int | None = None,
        gated: str | None = None,
        **options: Any,
    ) -> FaultWorker:
        """Returns when it is ready. `gated`: the phases at which messages wait for its gate."""
        environment = {"FAULT_BROKER": json.dumps({**self.options, **options})}
        if prefetch is not None:
            environment["dramatiq_queue_prefetch"] = str(prefetch)
        if gated is not None:
            environment["FAULT_GATED"] = gated
        worker = FaultWorker(next(self._names), self._directory, self.journal, environment, threads)
        self.workers.append(worker)
        if gated is not None:
            worker.gate.shut()
        until(
            lambda: worker.ended or worker.has_been(BOOTED),
            f"{worker.name} boots",
        )
        assert worker.has_been(BOOTED), worker.log()
        return worker

    def send(self, actor: str, *arguments: Any) -> None:
        """Returns when the server has it."""
        self.broker.enqueue(message(actor, *arguments))

    def await_empty(self, seconds: float = 60.0) -> None:
        """Nothing is ready, delayed, in flight or dead."""
        self.broker.join(QUEUE, timeout=seconds * 1000)
        assert tuple(self.broker.get_queue_message_counts(QUEUE)) == (0, 0, 0)

    def await_all_run(self, numbers: Sequence[int], seconds: float = 60.0) -> None:
        """Each number was started."""
        until(lambda: self.journal.runs().keys() >= set(numbers), f"{numbers} run", seconds)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [child for child, parent in parents() if parent == pid]


def message(actor: str, *arguments: Any) -> Message[Any]:
    """For an actor of `fault_actors`; its first argument is its number."""
    return Message(queue_name=QUEUE, actor_name=actor, args=arguments, kwargs={}, options={})
