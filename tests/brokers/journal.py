"""What the actors of the fault tests leave behind, whatever becomes of their process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.processes import until

BOOTED = "booted"
STOPPING = "stopping"
STARTED = "started"
ENDED = "ended"
FAILS = "fails"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One line: where a worker was, and when."""

    number: int
    """First argument of the actor; -1 for what belongs to no message."""
    phase: str
    worker: str
    pid: int
    at: float
    """`time.monotonic`, which all processes of a machine share."""


def append(path: str | Path, number: int, phase: str, worker: str) -> None:
    """Written whole, or not at all: lines of several processes never mix."""
    line = f"{number} {phase} {worker} {os.getpid()} {time.monotonic()}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


class Journal:
    """Reads what has been appended so far. Not for use by several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._records: list[Record] = []
        self._read = 0

    def records(self, phase: str, number: int | None = None) -> list[Record]:
        """In the order in which they were written."""
        self._catch_up()
        return [
            record
            for record in self._records
            if record.phase == phase and number in (None, record.number)
        ]

    def runs(self) -> Counter[int]:
        """How often each number was started."""
        return Counter(record.number for record in self.records(STARTED))

    def duplicates(self) -> int:
        """Runs beyond the first of each number."""
        return sum(count - 1 for count in self.runs().values())

    def await_record(
        self,
        phase: str,
        number: int | None = None,
        *,
        by: Callable[[Record], bool] = lambda record: True,
        seconds: float = 60.0,
    ) -> Record:
        """The first that fits, as soon as it is there."""
        found: list[Record] = []

        def look() -> bool:
            found[:] = filter(by, self.records(phase, number))
            return bool(found)

        until(look, f"{phase} of {'any' if number is None else number}", seconds)
        return found[0]

    def _catch_up(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            written = file.read()
        # A reader may see a line while it is being written: the rest of it comes next time.
        lines = written[: written.rfind(b"\n") + 1]
        self._read += len(lines)
        self._records += map(_parse, lines.decode().splitlines())


def _parse(line: str) -> Record:
    number, phase, worker, pid, at = line.split()
    return Record(number=int(number), phase=phase, worker=worker, pid=int(pid), at=float(at))
