"""From the POST to the terminal state, beside what the same steps cost by hand.

    python -m benchmarks.end_to_end [--repetitions N] [docker] [sandbox]

Prints a table in Markdown. README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from nats.aio.msg import Msg

from benchmarks.floors import IMAGE, SCRIPT, RunStep, docker_floor, sandbox_floor
from brokers import subjects
from brokers.nats.connection import NatsConnection
from tests.acceptance.stack import Stack
from tests.images import build

JOBS = {"docker": 16, "sandbox": 120}
"""So many one-step jobs make one measurement of the throughput."""
CONCURRENCIES = (1, 2, 4)
STEPS = (1, 3)
PATIENCE = 300.0  # seconds for one measurement


class Ends:
    """Hears of jobs that end, as any subscriber of the states does."""

    def __init__(self, nats_url: str) -> None:
        self._connection = NatsConnection(nats_url)
        self._changed = threading.Condition()
        self._ended: dict[str, str] = {}
        self._connection.run(self._subscribe())

    async def _subscribe(self) -> None:
        await self._connection.client.subscribe(subjects.STATUS_SUBJECTS, cb=self._on_status)
        await self._connection.client.flush()

    async def _on_status(self, message: Msg) -> None:
        state = message.subject.rpartition(".")[2]
        if state in ("Succeeded", "Failed", "Stopped"):
            with self._changed:
                self._ended[message.data.decode()] = state
                self._changed.notify_all()

    def await_success(self, job_ids: list[str]) -> None:
        """Until all of them have ended, and well."""
        with self._changed:
            ended = self._changed.wait_for(
                lambda: all(job_id in self._ended for job_id in job_ids), PATIENCE
            )
        assert ended and {self._ended[job_id] for job_id in job_ids} == {"Succeeded"}

    def close(self) -> None:
        self._connection.close()


@dataclass(kw_only=True)
class Bench:
    """One executor under measurement."""

    stack: Stack
    ends: Ends
    run_step: RunStep
    results: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of Hades and the floor, by what was measured; in milliseconds, or jobs a second."""

    def latency(self, steps: int) -> None:
        """One job on an idle system, then its steps by hand."""
        what = f"{steps} step{'s' * (steps > 1)}, ms"
        self.results[what, "hades"].append(1000 * timed(lambda: self._run_jobs(1, steps)))
        by_hand = 1000 * timed(lambda: self._run_steps(steps))
        self.results[what, "floor"].append(by_hand)

    def throughput(self, concurrency: int) -> None:
        """Many one-step jobs at once, then as many steps by hand from as many threads."""
        what, jobs = f"CONCURRENCY={concurrency}, jobs/s", JOBS[self.stack.executor]
        self.results[what, "hades"].append(jobs / timed(lambda: self._run_jobs(jobs, 1)))
        with ThreadPoolExecutor(concurrency) as threads:
            by_hand = timed(lambda: list(threads.map(lambda _: self.run_step(), range(jobs))))
        self.results[what, "floor"].append(jobs / by_hand)

    def warm_up(self) -> None:
        """What is only done once is done now."""
        self._run_jobs(2, 1)
        self.run_step()
        self.stack.settle()

    def _run_steps(self, count: int) -> None:
        for _ in range(count):
            self.run_step()

    def _run_jobs(self, count: int, steps: int) -> None:
        step = {"image": IMAGE, "script": SCRIPT}
        job: dict[str, Any] = {"name": "benchmark", "steps": [step] * steps}
        self.ends.await_success([self.stack.submit(job) for _ in range(count)])


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def opened(executor: str) -> Iterator[Bench]:
    """A whole installation with the images, and no worker yet."""
    with TemporaryDirectory(prefix="hades-benchmark-") as directory:
        Path(directory).chmod(0o711)
        with Stack(Path(directory), executor) as stack, floor_of(stack) as run_step:
            ends = Ends(stack.nats.url)
            yield Bench(stack=stack, ends=ends, run_step=run_step)
            ends.close()


def floor_of(stack: Stack) -> AbstractContextManager[RunStep]:
    """With the image that both sides need."""
    if stack.executor == "docker":
        build.load("busybox")
        return docker_floor()
    archive = build.save("busybox", stack.directory / "archives")
    done = stack.hades("images", "load", str(archive))
    assert done.returncode == 0, done.stderr
    return sandbox_floor(stack.data_dir)


def measure(bench: Bench) -> None:
    """One repetition of everything; the worker is a new one for each CONCURRENCY."""
    for concurrency in CONCURRENCIES:
        bench.stack.start_worker(concurrency)
        bench.warm_up()
        if concurrency == 1:
            for steps in STEPS:
                bench.latency(steps)
                bench.stack.settle()
        bench.throughput(concurrency)
        bench.stack.settle()
        bench.stack.stop_workers()


def table(benches: list[Bench]) -> str:
    """Each row: medians with their ranges, and the ratio in which a larger number is worse."""
    rows = ["| executor | what | Hades | by hand | Hades costs |", "|---|---|--:|--:|--:|"]
    for bench in benches:
        for what in dict.fromkeys(what for what, _ in bench.results):
            hades, floor = (bench.results[what, side] for side in ("hades", "floor"))
            ratio = median(hades) / median(floor)
            cost = ratio if what.endswith("ms") else 1 / ratio
            cells = (bench.stack.executor, what, shown(hades), shown(floor), f"{cost:.2f} x")
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def shown(values: list[float]) -> str:
    """Three digits of the median and of the range."""
    return f"{rounded(median(values))} ({rounded(min(values))} – {rounded(max(values))})"  # noqa: RUF001


def rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def machine() -> str:
    """Where this was measured, and how busy it was."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load before: {load:.2f}"


def main() -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("executors", nargs="*", default=[*JOBS], metavar="EXECUTOR")
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    print(machine())
    with ExitStack() as stack:
        benches = [stack.enter_context(opened(executor)) for executor in chosen.executors]
        for _ in range(chosen.repetitions):
            for bench in benches:  # they take turns: a slow moment of the machine meets all
                measure(bench)
    print(f"{chosen.repetitions} repetitions, median (range)\n\n{table(benches)}")


if __name__ == "__main__":
    main()
