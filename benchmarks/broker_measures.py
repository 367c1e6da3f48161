"""One measurement of one broker each: starts the processes, and returns what they found.

Every sender, worker and floor is a new process, so that no broker's threads, connections or heap
are in the way of the next one's.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from benchmarks import broker_record
from benchmarks.broker_record import Totals
from benchmarks.broker_servers import Server, program, rss, running, tail
from benchmarks.broker_variants import VARIANTS, WINDOW, Variant

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds for one measurement
COUNT_POLL = 0.02  # seconds
SETTLE = 1.5
"""Seconds after the start of a worker, or the last message, before memory is read."""
LATENCY_WARM_UP = 3
"""Messages before those whose latency counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is measured."""

    seconds: float
    """Of one measurement of enqueue."""
    messages: int
    """Of one measurement of consume, and queued for the memory."""
    sends: int
    """Of one measurement of the latency."""
    pause: float
    """Seconds between two of these, on average."""
    cool_down: float
    """Seconds before each measurement."""


class MeasurementFailed(Exception):
    """A process failed, died or got stuck; with the end of its log."""


@dataclass(kw_only=True)
class Bench:
    """The servers that run, and where processes find each other."""

    directory: Path
    size: Size
    sync: bool
    servers: dict[str, Server]
    notes: list[str] = field(default_factory=list)
    """What a reader must know of single measurements."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def enqueue(self, variant: Variant, threads: int) -> float:
        """Messages a second."""
        seconds = str(self.size.seconds)
        if variant.raw:
            pending = str(WINDOW if variant.name == "raw-window" else 0)
            done = self._run(variant, "publish", pending, str(threads), seconds)
        else:
            done = self._run(variant, "enqueue", str(threads), seconds)
        return done["messages"] / done["seconds"]

    def consume(self, variant: Variant, processes: int, threads: int) -> float:
        """Messages a second, from the first that starts to the last that ends."""
        messages = self.size.messages
        self._preload(variant, messages)
        with self._worker(variant, processes, threads) as worker:
            totals = worker.wait(lambda totals: totals.count >= messages)
        self._check_work(variant, broker_record.read(worker.records).count - messages)
        return messages / totals.seconds

    def _check_work(self, variant: Variant, again: int) -> None:
        """Every message once, or a note."""
        left = 0 if variant.raw else self._run(variant, "leftover")["messages"]
        if again or left:
            self.notes.append(f"{variant.name}: {again} messages ran twice, {left:g} were left")

    def latency(self, variant: Variant, processes: int, threads: int) -> tuple[float, float]:
        """p50 and p99 in milliseconds, from before a message is sent until its actor starts."""
        sends = self.size.sends + LATENCY_WARM_UP
        with self._worker(variant, processes, threads) as worker:
            time.sleep(SETTLE)
            self._run(variant, "latency", str(sends), str(self.size.pause))
            totals = worker.wait(lambda totals: all(totals.latencies[:sends]))
        found = [nanoseconds / 1e6 for nanoseconds in totals.latencies[LATENCY_WARM_UP:sends]]
        return median(found), quantiles(found, n=100, method="inclusive")[98]

    def memory(self, variant: Variant, processes: int, threads: int) -> dict[str, float]:
        """MB of a fresh server and of a worker, before and after the messages."""
        assert variant.server is not None
        place = self.directory / f"memory-{next(self._numbers)}"
        with running(variant.server, place, sync=self.sync) as server:
            own = Bench(
                directory=place, size=self.size, sync=self.sync, servers={server.kind: server}
            )
            return own._memory(server, variant, processes, threads)

    def _memory(
        self, server: Server, variant: Variant, processes: int, threads: int
    ) -> dict[str, float]:
        found = {"server, idle": _settled(server.rss)}
        with self._worker(variant, processes, threads) as worker:
            found["worker, idle"] = _settled(worker.rss)
        self._preload(variant, self.size.messages)
        found["server, full"] = _settled(server.rss)
        with self._worker(variant, processes, threads) as worker:
            worker.wait(lambda totals: totals.count >= self.size.messages)
            found["worker, after the run"] = _settled(worker.rss)
        return found

    def _preload(self, variant: Variant, messages: int) -> None:
        quickest = {"nats": "nats-many"}.get(variant.name, variant.name)
        self._run(VARIANTS[quickest], "preload", str(messages))

    def _run(self, variant: Variant, *arguments: str) -> dict[str, float]:
        """A sender; what it found."""
        module = "benchmarks.broker_floors" if variant.raw else "benchmarks.broker_load"
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment(variant)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode != 0:
            what = f"{variant.name} {' '.join(arguments)}"
            raise MeasurementFailed(f"{what}:\n{done.stdout}{done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    @contextmanager
    def _worker(self, variant: Variant, processes: int, threads: int) -> Iterator[Worker]:
        """A worker whose processes have all booted."""
        records = self.directory / f"records-{next(self._numbers)}"
        records.mkdir()
        environment = self._environment(variant) | {"BENCHMARK_RECORDS": str(records)}
        if variant.raw:
            commands = [[sys.executable, "-m", "benchmarks.broker_floors", "pull"]] * processes
        else:
            commands = [_dramatiq(processes, threads)]
        worker = Worker(variant=variant, records=records)
        with ExitStack() as stack:
            for argv in commands:
                worker.programs.append(
                    stack.enter_context(program(argv, worker.log, environment, cwd=ROOT))
                )
            worker.wait(lambda totals: len(totals.pids) == processes)
            broker_record.open_gate(records)
            yield worker

    def _environment(self, variant: Variant) -> dict[str, str]:
        url = self.servers[variant.server].url if variant.server else ""
        return {
            "BENCHMARK_BROKER": variant.name,
            "BENCHMARK_URL": url,
            "PYTHONPATH": str(ROOT),
        }


@dataclass(kw_only=True)
class Worker:
    """The processes of one worker, and their records."""

    variant: Variant
    records: Path
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.records / "log"

    def rss(self) -> int:
        """Resident memory of all processes that run actors, in bytes."""
        return sum(rss(pid) for pid in broker_record.read(self.records).pids)

    def wait(self, until: Callable[[Totals], bool]) -> Totals:
        """What the processes have recorded when `until` is true of it."""
        deadline = time.monotonic() + PATIENCE
        while not until(totals := broker_record.read(self.records)):
            dead = any(program.poll() is not None for program in self.programs)
            if dead or time.monotonic() > deadline:
                raise MeasurementFailed(
                    f"{self.variant.name}: {'dead' if dead else 'stuck'} after "
                    f"{totals.count} messages:\n{tail(self.log)}"
                )
            time.sleep(COUNT_POLL)
        return totals


def _dramatiq(processes: int, threads: int) -> list[str]:
    argv = [sys.executable, "-m", "dramatiq", "benchmarks.broker_actors"]
    return [*argv, "--processes", str(processes), "--threads", str(threads)]


def _settled(read: Callable[[], int]) -> float:
    """MB, a moment later."""
    time.sleep(SETTLE)
    return read() / 1e6
