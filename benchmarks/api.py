"""`POST /build` from one client to many, with and without history, in batches, and under siege.

    python -m benchmarks.api [--repetitions N] [--quick] [--against CHECKOUT] [GROUP ...]

Groups: fresh, history, batches, memory. Prints tables in Markdown. README.md says what is measured
and how to read it. `--against` measures another checkout beside this one, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from app.launch import ROOT
from benchmarks.api_hostile import HUGE, SLOW, TIMES, load, send_huge, served_beside_slow_ones
from benchmarks.api_servers import Api, Floor
from benchmarks.end_to_end import machine, shown

CONNECTIONS = (1, 16, 64)
GROUPS = ("fresh", "history", "batches", "memory")
BATCH = 1000
MIB = 1024 * 1024


@dataclass(kw_only=True)
class Bench:
    """All that is measured of the checkouts."""

    directory: Path
    checkouts: dict[str, Path]
    seconds: float
    history: int
    """Jobs."""
    results: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By what was measured, and of whom."""
    remarks: list[str] = field(default_factory=list)
    count: int = 0

    def note(self, what: str, who: str, value: float) -> None:
        self.results[what, who].append(value)

    @contextmanager
    def fresh(self, name: str) -> Iterator[Api]:
        """A checkout's API on a NATS server without anything."""
        self.count += 1
        with Api(self.directory / str(self.count), self.checkouts[name]) as api:
            yield api

    def rates(self, what: str, name: str, api: Api) -> None:
        """POST /build from 1, 16 and 64 connections."""
        for connections in CONNECTIONS:
            before = api.cpu()
            told = load(api.port, connections=connections, seconds=self.seconds)
            row = f"{what}, {connections} connection{'s' * (connections > 1)}"
            self.note(f"{row}, jobs/s", name, told["requests"] / told["seconds"])
            self.note(f"{row}, p50 ms", name, 1000 * told["p50"])
            self.note(f"{row}, p99 ms", name, 1000 * told["p99"])
            used = (api.cpu() - before) / max(1, told["sent"])
            self.note(f"{row}, CPU µs a job", name, 1e6 * used)

    def batches(self, name: str, api: Api) -> None:
        """POST /v1/jobs, from one connection."""
        told = load(api.port, path="/v1/jobs", jobs=BATCH, connections=1, seconds=self.seconds)
        if told["requests"]:
            rate = BATCH * told["requests"] / told["seconds"]
            self.note(f"batches of {BATCH}, jobs/s", name, rate)
        else:
            self.remark(f"{name}: batches: answered {told['refused']}")

    def memory(self, name: str, api: Api) -> None:
        """Huge bodies, then slow clients."""
        load(api.port, connections=16, requests=200)
        before = api.rss()
        heard = send_huge(api.port)
        self.note("RSS before, MiB", name, before / MIB)
        self.note(f"RSS after {TIMES} bodies of {HUGE // MIB} MiB, MiB", name, api.rss() / MIB)
        self.remark(f"{name}: a body of {HUGE // MIB} MiB is answered: {heard}")
        alone = load(api.port, connections=1, seconds=self.seconds)
        beside = served_beside_slow_ones(api, self.seconds)
        self.note("one client alone, p50 ms", name, 1000 * alone["p50"])
        if beside is None:
            self.remark(f"{name}: beside {SLOW} slow clients, nobody is served")
        else:
            self.note(f"one client beside {SLOW} slow ones, p50 ms", name, 1000 * beside["p50"])
            self.note(f"one client beside {SLOW} slow ones, p99 ms", name, 1000 * beside["p99"])
        self.note("RSS after the slow ones, MiB", name, api.rss() / MIB)

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def floors(self, floor: Floor, nats_url: str) -> None:
        """What Flask and NATS cost by themselves, in the same minute."""
        for connections in CONNECTIONS:
            told = load(floor.port, connections=connections, seconds=self.seconds)
            row = f"fresh, {connections} connection{'s' * (connections > 1)}"
            self.note(f"{row}, jobs/s", "Flask's constant", told["requests"] / told["seconds"])
            self.note(f"{row}, p50 ms", "Flask's constant", 1000 * told["p50"])
            self.note(f"{row}, p99 ms", "Flask's constant", 1000 * told["p99"])
        done = subprocess.run(
            (sys.executable, "-m", "benchmarks.api_floors", nats_url, str(self.seconds)),
            capture_output=True,
            text=True,
            check=True,
        )
        one, many = json.loads(done.stdout)
        self.note("fresh, 1 connection, jobs/s", "bare publishes", one)
        self.note("fresh, 64 connections, jobs/s", "bare publishes", many)


def repetition(bench: Bench, groups: list[str], old: dict[str, Api], floor: Floor) -> None:
    """Everything once; the checkouts take turns."""
    for name in bench.checkouts:
        with bench.fresh(name) as api:
            if "fresh" in groups:
                bench.rates("fresh", name, api)
            if "batches" in groups:
                bench.batches(name, api)
            if "fresh" in groups and name == next(iter(bench.checkouts)):
                bench.floors(floor, api.nats_url)
        if "history" in groups:
            bench.rates(f"after {bench.history} jobs", name, old[name])
        if "memory" in groups:
            with bench.fresh(name) as api:
                bench.memory(name, api)


def table(bench: Bench) -> str:
    """Each row: medians with their ranges."""
    columns = list(dict.fromkeys(who for _, who in bench.results))
    rows = [f"| what | {' | '.join(columns)} |", f"|---{'|--:' * len(columns)}|"]
    for what in dict.fromkeys(what for what, _ in bench.results):
        cells = [bench.results.get((what, who), []) for who in columns]
        rows.append(f"| {what} | {' | '.join(shown(cell) if cell else '' for cell in cells)} |")
    return "\n".join(rows)


def ratios(bench: Bench) -> Iterator[str]:
    """What history costs, and how the checkouts compare, repetition by repetition."""
    first, *others = bench.checkouts
    rates = [what for what, _ in bench.results if what.endswith("jobs/s")]
    for what in dict.fromkeys(rates):
        for other in others:
            if pairs := list(
                zip(bench.results[what, first], bench.results[what, other], strict=False)
            ):
                yield f"- {what}: {first} / {other} = {shown([a / b for a, b in pairs])}"
    for name in bench.checkouts:
        for what in dict.fromkeys(rates):
            old = bench.results.get((what.replace("fresh", f"after {bench.history} jobs"), name))
            if what.startswith("fresh") and old:
                parts = [b / a for a, b in zip(bench.results[what, name], old, strict=True)]
                yield f"- {name}: {what}: after {bench.history} jobs / fresh = {shown(parts)}"


def run(bench: Bench, groups: list[str], repetitions: int) -> None:
    """All repetitions; the histories are made before, by posting."""
    with ExitStack() as stack:
        floor = stack.enter_context(Floor())
        old = {}
        if "history" in groups:
            for name in bench.checkouts:
                old[name] = stack.enter_context(bench.fresh(name))
                load(old[name].port, connections=64, requests=bench.history)
        for _ in range(repetitions):
            repetition(bench, groups, old, floor)


def main() -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=[*GROUPS], metavar="GROUP")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="does it run? not: how fast is it?")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    chosen = parser.parse_args()
    if unknown := set(chosen.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    print(machine())
    checkouts = {"**Hades**": ROOT}
    if chosen.against is not None:
        checkouts[str(chosen.against)] = chosen.against.resolve()
    repetitions = 1 if chosen.quick else chosen.repetitions
    with TemporaryDirectory(prefix="hades-benchmark-") as directory:
        bench = Bench(
            directory=Path(directory),
            checkouts=checkouts,
            seconds=0.5 if chosen.quick else 2.0,
            history=1000 if chosen.quick else 50_000,
        )
        run(bench, chosen.groups, repetitions)
    print(f"{repetitions} repetitions, median (range)\n\n{table(bench)}\n")
    print("\n".join([*ratios(bench), *(f"- {remark}" for remark in bench.remarks)]))


if __name__ == "__main__":
    main()
