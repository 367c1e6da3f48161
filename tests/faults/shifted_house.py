"""An installation whose programs go by a wall clock of the test's."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.processes import Process
from tests.faults.house import FaultHouse

SHIFTED = "tests.faults.shifted"


class ShiftedHouse(FaultHouse):
    """All of its programs go by a wall clock that jumps when a test wants it to."""

    def __init__(self, directory: Path, executor: str, **env: str) -> None:
        super().__init__(directory, executor, **env)
        self._clock = directory / "clock"
        self.jump(0.0)

    def jump(self, seconds: float) -> None:
        """From now on clocks are so far ahead of the right time."""
        draft = self._clock.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.rename(self._clock)

    def start_api(self) -> None:
        """See `Stack.start_api`."""
        self.api = self._web("api", f"{SHIFTED}:api()", self.api_url, self._shifts)
        self.api.await_answer(f"{self.api_url}/ping")

    def start_logs(self) -> None:
        """See `Stack.start_logs`."""
        self.logs_manager = self._web("logs", f"{SHIFTED}:logs()", self.logs_url, self._shifts)
        self.logs_manager.await_answer(f"{self.logs_url}/health")

    def worker(self, concurrency: int = 1, **env: str) -> Process:
        """See `FaultHouse.worker`."""
        return self._other_worker(f"{SHIFTED}:setup", concurrency, self._shifts | env)

    @property
    def _shifts(self) -> dict[str, str]:
        return {"CLOCK_OFFSET": str(self._clock)}
