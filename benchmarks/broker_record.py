"""What worker processes tell the benchmark: one memory-mapped file a process, no system calls.

A thread counts in a slot of its own, so that threads neither wait for nor overwrite each other.
The clock is CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SLOTS = 64
"""Threads of one process."""
MAX_SENDS = 4096
"""Messages of one measurement of the latency."""

_SLOT_WORDS = 3  # messages processed, start of the first and end of the last in ns
_PID, _FIRST_SLOT = 0, 1
_FIRST_LATENCY = _FIRST_SLOT + SLOTS * _SLOT_WORDS
_WORDS = _FIRST_LATENCY + MAX_SENDS
_GO = "go"
_GATE_POLL = 0.001  # seconds


class Record:
    """The writer's side. `open` it in the process that writes, after the fork."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._free_slots = itertools.count()

    def open(self, directory: Path) -> None:
        """Create this process's file; from then on the benchmark knows of the process."""
        hidden = directory / f"{os.getpid()}.new"
        with hidden.open("w+b") as file:
            file.truncate(_WORDS * 8)
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._words[_PID] = os.getpid()
        hidden.rename(directory / f"{os.getpid()}.record")

    def processed(self, started: int) -> None:
        """Count one message whose actor started at `started` (ns) and ends now."""
        try:
            slot = self._local.slot
        except AttributeError:
            slot = self._local.slot = _FIRST_SLOT + next(self._free_slots) * _SLOT_WORDS
            self._words[slot + 1] = started
        self._words[slot] += 1
        self._words[slot + 2] = time.monotonic_ns()

    def latency(self, index: int, nanoseconds: int) -> None:
        """Note when the `index`-th message started, counted from before it was sent."""
        self._words[_FIRST_LATENCY + index] = nanoseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Of all processes of one measurement."""

    pids: list[int]
    count: int
    seconds: float
    """From the start of the first message to the end of the last; 0.0 before there is one."""
    latencies: list[int]
    """Nanoseconds, 0 for a message that has not started."""


def read(directory: Path) -> Totals:
    """What the processes have written so far."""
    pids, slots, latencies = [], [], [0] * MAX_SENDS
    for path in directory.glob("*.record"):
        words = array("q", path.read_bytes())
        pids.append(words[_PID])
        slots += list(_used_slots(words))
        latencies = [max(pair) for pair in zip(latencies, words[_FIRST_LATENCY:], strict=True)]
    begin, end = min((s[1] for s in slots), default=0), max((s[2] for s in slots), default=0)
    return Totals(
        pids=pids,
        count=sum(slot[0] for slot in slots),
        seconds=(end - begin) / 1e9,
        latencies=latencies,
    )


def _used_slots(words: array[int]) -> Iterator[array[int]]:
    for at in range(_FIRST_SLOT, _FIRST_LATENCY, _SLOT_WORDS):
        if words[at]:
            yield words[at : at + _SLOT_WORDS]


def open_gate(directory: Path) -> None:
    """Let every process begin."""
    (directory / _GO).touch()


def wait_at_gate(directory: Path) -> None:
    """Block until the gate is open: processes that boot one after the other begin together."""
    while not (directory / _GO).exists():
        time.sleep(_GATE_POLL)
