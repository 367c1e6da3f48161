"""What the soak measures: memory, open files, streams, disk, workspaces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dramatiq.errors import BrokerError

from brokers.nats.connection import NatsConnection
from tests.acceptance.processes import parents, read_or_empty

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """At one moment. Numbers by what they count; bytes are bytes."""

    second: float
    """Since the soak began."""
    jobs: int
    """Accepted until then."""
    values: Mapping[str, int]


def take(
    second: float, jobs: int, programs: Mapping[str, int], data_dir: Path, nats: NatsConnection
) -> Sample:
    """What cannot be measured at the moment is left out."""
    values: dict[str, int] = {}
    for name, pid in programs.items():
        tree = [pid, *_descendants(pid)]
        values[f"{name}: memory"] = sum(map(_memory, tree))
        values[f"{name}: open files"] = sum(map(_open_files, tree))
        values[f"{name}: processes"] = len(tree)
    values |= dict(_streams(nats))
    values["disk of the jobs"] = _disk(data_dir)
    values["workspaces"] = sum(1 for _ in _workspaces(data_dir))
    return Sample(second=second, jobs=jobs, values=values)


def _descendants(pid: int) -> list[int]:
    """Those of the programs themselves: what a sandbox runs is not counted."""
    children = [child for child, parent in parents() if parent == pid]
    python = [child for child in children if b"python" in read_or_empty(_proc(child) / "cmdline")]
    return python + [each for child in python for each in _descendants(child)]


def _proc(pid: int) -> Path:
    return Path(f"/proc/{pid}")


def _memory(pid: int) -> int:
    fields = read_or_empty(_proc(pid) / "statm").split()
    return int(fields[1]) * PAGE if fields else 0


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(_proc(pid) / "fd"))
    except OSError:
        return 0


def _streams(nats: NatsConnection) -> Iterator[tuple[str, int]]:
    try:
        infos = nats.run(nats.jetstream.streams_info())
    except (BrokerError, OSError, TimeoutError):
        return
    for info in infos:
        name = info.config.name
        yield f"{name}: messages", info.state.messages
        yield f"{name}: bytes", info.state.bytes
        yield f"{name}: consumers", info.state.consumer_count


def _disk(directory: Path) -> int:
    """Without the images: they are there from the beginning."""
    found = 0
    for parent, directories, files in os.walk(directory):
        directories[:] = [each for each in directories if each != "images"]
        for file in files:
            try:
                found += os.lstat(Path(parent) / file).st_size
            except OSError:
                continue
    return found


def _workspaces(data_dir: Path) -> Iterator[str]:
    for name in ("workspaces", "jobs"):
        if (data_dir / name).is_dir():
            yield from os.listdir(data_dir / name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Medians of the first and the last third of the samples."""

    what: str
    first: float
    last: float
    a_job: float
    """What each job has added."""


def growths(samples: list[Sample]) -> list[Growth]:
    """Of all that was measured."""
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]
    jobs = median(each.jobs for each in last) - median(each.jobs for each in first)
    names = dict.fromkeys(name for sample in samples for name in sample.values)
    found = []
    for name in names:
        one, other = (
            [each.values[name] for each in part if name in each.values] for part in (first, last)
        )
        if one and other:
            grown = median(other) - median(one)
            found.append(
                Growth(
                    what=name,
                    first=median(one),
                    last=median(other),
                    a_job=grown / jobs if jobs else 0.0,
                )
            )
    return found
