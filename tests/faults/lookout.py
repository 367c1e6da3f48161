"""Sees with the kernel's eyes where and when steps of a job are alive, whatever anybody tells.

A step's processes have the job's id in their environment, and each run of a step has a mount
namespace of its own: a job that is seen in two of them at once is run twice at once.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.acceptance.processes import read_or_empty
from tests.faults.story import Life

LOOK_SECONDS = 0.1
_JOB = re.compile(rb"(?:^|\0)UUID=([0-9a-f-]{36})\0")


class Lookout:
    """Within the block. Needs to be root to look into containers."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Life]] = defaultdict(list)
        self._looked = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lookout", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def lives(self, job_id: str) -> tuple[Life, ...]:
        """Of the job, so far."""
        return tuple(self._seen[job_id])

    def alive(self, job_id: str) -> bool:
        """Whether one of its steps is, at this moment."""
        return any(found == job_id for _, found, _ in _steps())

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """What has ended during the look is left out: it may have made room for the next."""
        now = time.monotonic()
        for path, job_id, place in list(_steps()):
            if _place_of(path) == place:
                self._note(self._seen[job_id], place, now)
        self._looked = now

    def _note(self, lives: list[Life], place: str, now: float) -> None:
        """What was not seen at the look before is another life: the kernel uses numbers again, for
        the third step of a job the one of its first."""
        for index, life in enumerate(lives):
            if life.place == place and life.ended >= self._looked:
                lives[index] = replace(life, ended=now)
                return
        lives.append(Life(place=place, begun=now, ended=now))


def _steps() -> list[tuple[Path, str, str]]:
    """Each process of a step, its job and its mount namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        job = _JOB.search(read_or_empty(path / "environ"))
        if job and (place := _place_of(path)):
            found.append((path, job[1].decode(), place))
    return found


def _place_of(path: Path) -> str:
    """Empty: it has ended, though its parent may not have noticed."""
    try:
        place = os.readlink(path / "ns/mnt")
    except OSError:
        return ""
    state = read_or_empty(path / "stat").rpartition(b")")[2].split()
    return place if state and state[0] not in (b"Z", b"X") else ""
