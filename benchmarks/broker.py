"""NatsBroker beside Dramatiq's RedisBroker and RabbitmqBroker, on servers of their own.

    python -m benchmarks.broker [--only enqueue,consume,latency,memory] [--sync] [--json PATH]
    python -m benchmarks.broker --quick        # does it run? not: how fast is it?

Prints tables in Markdown. README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.broker_measures import Bench, Size
from benchmarks.broker_report import Metric, Results, caveats, machine, write_json
from benchmarks.broker_servers import installed, running
from benchmarks.broker_variants import SERVERS, VARIANTS, Variant

GROUPS = {
    "enqueue": "redis rabbitmq rabbitmq-confirm nats-sync nats-window nats-many "
    "raw-sync raw-window stub",
    "consume": "redis rabbitmq nats raw-pull",
    "latency": "redis rabbitmq rabbitmq-confirm nats-sync nats-window",
    "memory": "redis rabbitmq nats",
}
"""Variants of each group of measurements."""
THREADS = (1, 8)
"""That enqueue."""
WORKERS = ((1, 8), (2, 8))
"""Processes and threads of each that consume."""
ONE_WORKER = (1, 8)

FULL = Size(seconds=2.0, messages=10_000, sends=60, pause=0.2, cool_down=0.5)
QUICK = Size(seconds=0.2, messages=300, sends=5, pause=0.05, cool_down=0.0)

Step = Callable[[Bench, Results], None]
"""One measurement of one variant."""


def steps(group: str, variant: Variant) -> Iterator[Step]:
    """What one round measures of the variant."""
    match group:
        case "enqueue":
            for threads in THREADS:
                yield enqueue(variant, threads)
        case "consume":
            for processes, threads in WORKERS:
                yield consume(variant, processes, threads)
        case "latency":
            yield latency(variant)
        case "memory":
            yield memory(variant)


def enqueue(variant: Variant, threads: int) -> Step:
    metric = Metric("enqueue", f"{threads} thread{'s' * (threads > 1)}", "messages/s")
    return lambda bench, results: results.add(metric, variant.name, bench.enqueue(variant, threads))


def consume(variant: Variant, processes: int, threads: int) -> Step:
    metric = Metric("consume", f"{processes} x {threads}", "messages/s")

    def step(bench: Bench, results: Results) -> None:
        results.add(metric, variant.name, bench.consume(variant, processes, threads))

    return step


def latency(variant: Variant) -> Step:
    def step(bench: Bench, results: Results) -> None:
        for name, value in zip(("p50", "p99"), bench.latency(variant, *ONE_WORKER), strict=True):
            results.add(Metric("latency", name, "ms", less_is_better=True), variant.name, value)

    return step


def memory(variant: Variant) -> Step:
    def step(bench: Bench, results: Results) -> None:
        for name, value in bench.memory(variant, *ONE_WORKER).items():
            results.add(Metric("memory", name, "MB", less_is_better=True), variant.name, value)

    return step


def variants(group: str, servers: list[str], *, sync: bool) -> list[Variant]:
    """Those whose server is there, and that keep what `sync` promises."""
    unsafe = {"rabbitmq"} if sync and group in ("enqueue", "latency") else set()
    chosen = (VARIANTS[name] for name in GROUPS[group].split() if name not in unsafe)
    return [each for each in chosen if each.server is None or each.server in servers]


def measure(bench: Bench, results: Results, options: argparse.Namespace, number: int) -> None:
    """One round. The brokers take turns, in an order of the round's own."""
    order = random.Random(number)
    for group in options.only:
        chosen = variants(group, options.servers, sync=options.sync)
        rows = [list(steps(group, variant)) for variant in chosen]
        for column in zip(*rows, strict=True):
            for step in order.sample(column, len(column)):
                time.sleep(bench.size.cool_down)
                step(bench, results)


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Bench]:
    """All servers, running."""
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hades-benchmark-"))
        directory = Path(name)
        servers = {
            kind: stack.enter_context(running(kind, directory / kind, sync=options.sync))
            for kind in options.servers
        }
        yield Bench(directory=directory, size=options.size, sync=options.sync, servers=servers)


def run(options: argparse.Namespace) -> None:
    """All rounds; then the tables, also when a round fails: of those before it."""
    results, loads = Results(), []
    with opened(options) as bench:
        facts = machine(bench.directory, bench.servers)
        print("\n".join(f"- {name}: {value}" for name, value in facts.items()), flush=True)
        try:
            for number in range(1, options.repetitions + 1):
                loads.append(os.getloadavg()[0])
                print(f"round {number}: load {loads[-1]:.2f}", file=sys.stderr, flush=True)
                one_round = Results()
                measure(bench, one_round, options, number)
                results.extend(one_round)
        finally:
            report(results, options, loads, bench.notes, facts)


def report(
    results: Results,
    options: argparse.Namespace,
    loads: list[float],
    notes: list[str],
    facts: dict[str, str],
) -> None:
    """Print the tables, and write the file."""
    shown = ", ".join(f"{load:.2f}" for load in loads)
    print(f"- load average (1 min) before each of {len(loads)} rounds: {shown}")
    print(f"- {'synced to disk' if options.sync else 'default durability'}, {options.size}\n")
    print(results.tables(), *(f"\nNote: {note}." for note in notes), sep="\n")
    print(f"\n### Caveats\n\n{caveats(sync=options.sync, pause=options.size.pause)}")
    if options.json:
        size = asdict(options.size) | {"sync": options.sync, "repetitions": options.repetitions}
        content = {"machine": facts, "size": size, "loads": loads, "notes": notes}
        write_json(options.json, **content, rows=results.rows())


def listed(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """For argparse: some of the known names, separated by commas, in our order."""

    def parse(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"not {unknown}, but of {', '.join(known)}")
        return [name for name in known if name in text.split(",")]

    return parse


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=listed(tuple(GROUPS)), default=[*GROUPS])
    parser.add_argument("--servers", type=listed(SERVERS), default=[*SERVERS])
    parser.add_argument("--sync", action="store_true", help="everything confirmed is on the disk")
    parser.add_argument("--quick", action="store_true", help="small and once: only a test")
    parser.add_argument("--repetitions", type=int, help="rounds (5)")
    parser.add_argument("--messages", type=int, help=f"to consume ({FULL.messages})")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    options.size = replace(size, messages=options.messages or size.messages)
    options.repetitions = options.repetitions or (1 if options.quick else 5)
    return options


def main() -> None:
    """The command line, described above."""
    options = parsed()
    for kind in options.servers:
        if not installed(kind):
            print(f"{kind}: server or client library is not installed; left out", file=sys.stderr)
    options.servers = [kind for kind in options.servers if installed(kind)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers end with their blocks
    run(options)


if __name__ == "__main__":
    main()
