"""NATS is away for three minutes, of an installation of which nothing else is wanted meanwhile."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.acceptance.conftest import load_image
from tests.acceptance.processes import until
from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

AWAY_SECONDS = 180.0
EXECUTORS = ("docker", "sandbox")


class LongOutage:
    """Begun when the block is entered; `end` waits until it has lasted long enough."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.houses: list[FaultHouse] = []
        self.jobs: dict[FaultHouse, tuple[str, ...]] = {}
        self.since = 0.0
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            for name in EXECUTORS:
                directory = self._directory / name
                directory.mkdir(mode=0o711)
                house = cleanup.enter_context(FaultHouse(directory, name))
                self.houses.append(house)
                load_image(house, "busybox")
                self.jobs[house] = self._begin(house)
            for house in self.houses:
                house.nats.kill()
            self.since = time.monotonic()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for house in self.houses:
            house.nats.start()
        self._cleanup.close()

    @staticmethod
    def _begin(house: FaultHouse) -> tuple[str, ...]:
        """One job that ends while NATS is away, one that goes on to its next step, one waits."""
        house.worker(concurrency=2)
        first = house.post(job(ticking(8), **house.calling()))
        second = house.post(job(ticking(9), ticking(0.4), **house.calling()))
        waiting = house.post(job(ticking(0.4), **house.calling()))
        for job_id in (first, second):
            until(lambda job_id=job_id: house.lookout.alive(job_id), "its step runs")  # type: ignore[misc]
        return first, second, waiting

    def health(self, house: FaultHouse) -> list[int]:
        """What the API, the log manager and the worker say of themselves."""
        urls = [f"{house.api_url}/readyz", f"{house.logs_url}/readyz"]
        answers = [httpx.get(url, timeout=10.0) for url in urls]
        return [
            answer.status_code for answer in (*answers, house.probe(house.workers[0], "/readyz"))
        ]

    def end(self) -> None:
        """NATS is back, after its time."""
        time.sleep(max(0.0, self.since + AWAY_SECONDS - time.monotonic()))
        for house in self.houses:
            house.nats.start()
