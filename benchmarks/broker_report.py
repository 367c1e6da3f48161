"""The tables: medians with their ranges, and ratios that are taken round by round."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.broker_servers import Server
from benchmarks.broker_variants import VARIANTS

REFERENCES = {
    "redis": "x Redis",
    "rabbitmq": "x RabbitMQ",
    "rabbitmq-confirm": "x RabbitMQ confirmed",
}
"""Columns of ratios, by the variant that is 1 there."""
LIBRARIES = {"dramatiq": "dramatiq", "nats-py": "nats-py", "redis-py": "redis", "pika": "pika"}
"""Distributions, by what they are called here."""
SYNCS = 50

CAVEATS = """
- Compare ratios, not the numbers of two runs: the servers, senders and workers of all brokers share
  one machine, and the brokers take turns, in another order each round. A ratio is the median of
  the rounds' ratios, with the smallest and the largest; one whose range holds 1 says nothing.
- Every broker has Dramatiq's default middleware and its own default settings (prefetch, heartbeats,
  encoder). Tuning moves all of them.
- RedisBroker and RabbitmqBroker have no `enqueue_many`: they are measured by a loop of `send`.
- RabbitmqBroker without `confirm_delivery` returns when the message is in the socket: a message
  that the server never got is lost without an error. NatsBroker in window mode reports it, but
  later; until it is confirmed, it is lost with the process that sent it. The time of every row
  ends when all is confirmed that the broker confirms at all.
- {durability}
- The floors are nats-py without Dramatiq: no message object, no middleware, no JSON, no Msg-Id, and
  one event loop, with tasks in the place of threads; and the pull loop runs no threads at all.
  A broker with a client of its own may be above them. StubBroker has no server: it is the price of
  Dramatiq itself.
- consume: all processes have booted before any begins; the time ends with the last message, so a
  process that starts late counts against its broker. The actor writes two numbers to shared memory.
- latency: one machine, so no network. p99 of so few sends is nearly the slowest one. RedisBroker
  polls with a backoff of up to a second: its latency depends on the pauses between the sends
  ({pause:g} s here, 0.5 to 1.5 times that), and longer ones are worse for it.
- memory: RSS, of servers started anew. It includes pages of files and libraries that are shared,
  and what an allocator keeps; Erlang reserves much and gives back late.
- One server of each: no cluster, no TLS, no failover. Loopback.
""".strip()
DURABILITY = {
    False: """\
Default durability, which is not the same for all. NATS writes to a file before it confirms, and
  syncs the file every 2 minutes: it survives kill -9, not a power cut. Redis takes a snapshot now
  and then: a crash loses what came since, and the snapshot's fork meets whoever is measured then.
  RabbitMQ, durable queue and persistent messages, syncs before it confirms, so its confirmed row
  pays for more than the others: compare that one with `--sync`.""",
    True: """\
All that is confirmed was synced to the disk before: Redis `appendfsync always`, NATS
  `sync_interval: always`, RabbitMQ durable, persistent and confirmed. With several senders, Redis
  and RabbitMQ sync once for several messages, NATS once for each. To consume,
  NATS also syncs every acknowledgement, Redis several at once, and RabbitMQ hardly any. Whether a
  sync reaches a platter is up to the machine; its time is above.""",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One block of rows."""

    group: str
    name: str
    unit: str
    less_is_better: bool = False


@dataclass(slots=True)
class Results:
    """Values by metric and variant, one a round."""

    values: dict[Metric, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, metric: Metric, variant: str, value: float) -> None:
        self.values.setdefault(metric, {}).setdefault(variant, []).append(value)

    def extend(self, other: Results) -> None:
        """By the values of another round."""
        for metric, of in other.values.items():
            for variant, values in of.items():
                self.values.setdefault(metric, {}).setdefault(variant, []).extend(values)

    def tables(self) -> str:
        """One table a group."""
        groups = dict.fromkeys(metric.group for metric in self.values)
        return "\n\n".join(self._table(group) for group in groups)

    def rows(self) -> list[dict[str, object]]:
        """Everything, for JSON."""
        return [
            {
                "group": metric.group,
                "metric": metric.name,
                "unit": metric.unit,
                "less_is_better": metric.less_is_better,
                "variant": variant,
                "values": values,
                "median": median(values),
                "ratios": {
                    reference: _ratios(values, of[reference])
                    for reference in REFERENCES
                    if reference in of
                },
            }
            for metric, of in self.values.items()
            for variant, values in of.items()
        ]

    def _table(self, group: str) -> str:
        metrics = [metric for metric in self.values if metric.group == group]
        references = [
            reference
            for reference in REFERENCES
            if any(reference in self.values[metric] for metric in metrics)
        ]
        better = "less is better" if metrics[0].less_is_better else "more is better"
        head = ["what", "broker", metrics[0].unit, *(REFERENCES[each] for each in references)]
        lines = [f"### {group}: {metrics[0].unit}, {better}", "", _row(head)]
        lines.append("|---|---|" + "--:|" * (len(head) - 2))
        for metric in metrics:
            lines += self._metric_rows(metric, references)
        return "\n".join(lines)

    def _metric_rows(self, metric: Metric, references: list[str]) -> Iterable[str]:
        of = self.values[metric]
        for variant in (name for name in VARIANTS if name in of):
            ratios = [
                _shown(_ratios(of[variant], of[each]), digits=3) if each in of else ""
                for each in references
            ]
            cells = (metric.name, VARIANTS[variant].label, _shown(of[variant]), *ratios)
            yield _row(cells)


def _ratios(values: list[float], reference: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, reference, strict=True)]


def _shown(values: list[float], digits: int = 3) -> str:
    """Median and range."""
    if min(values) == max(values):
        return _rounded(values[0], digits)
    numbers = (median(values), min(values), max(values))
    middle, low, high = (_rounded(number, digits) for number in numbers)
    return f"{middle} ({low} - {high})"


def _rounded(value: float, digits: int) -> str:
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{digits}g}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine(directory: Path, servers: dict[str, Server]) -> dict[str, str]:
    """Where this was measured, and with what."""
    facts = {
        "cores": str(os.cpu_count()),
        "processor": _first(r"model name\s*: (.*)", "/proc/cpuinfo"),
        "memory": _first(r"MemTotal:\s+(.*)", "/proc/meminfo"),
        "kernel": platform.release(),
        "fsync of 4 kB": f"{1000 * _fsync_seconds(directory):.2f} ms (median of {SYNCS})",
        "Python": platform.python_version(),
    }
    facts |= {name: _version(distribution) for name, distribution in LIBRARIES.items()}
    return facts | {f"{server.kind}-server": server.version for server in servers.values()}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _first(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found[1] if found else "?"


def _fsync_seconds(directory: Path) -> float:
    found = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fsync(file.fileno())
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def caveats(*, sync: bool, pause: float) -> str:
    """How not to read the tables."""
    return CAVEATS.format(durability=DURABILITY[sync], pause=pause)


def write_json(path: Path, **content: object) -> None:
    """Everything that was printed, and each single value."""
    path.write_text(json.dumps(content, indent=2) + "\n")
