"""The installation of the soak, whose programs are killed at random and started again."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.acceptance.processes import Process
from tests.faults.house import FaultHouse

CONCURRENCY = 2
API_PROCESSES = 2


class SoakHouse(FaultHouse):
    """With two workers, of which one is never killed: whether it grows is to be seen."""

    def __init__(self, directory: Path, executor: str, chance: random.Random) -> None:
        super().__init__(directory, executor, NATS_ACK_WAIT="5s")
        self.kills: Counter[str] = Counter()
        self._chance = chance
        self._breakdowns: dict[str, tuple[int, Callable[[], None]]] = {
            "worker": (4, self._kill_worker),
            "worker, drained": (1, self._drain_worker),
            "API process": (3, self._kill_api_process),
            "API": (1, self._kill_api),
            "log manager": (1, self._kill_logs),
            "nats-server": (2, self._kill_nats),
        }

    def start_workers(self) -> None:
        """The last one is the one that is never killed."""
        self.victim = self.worker(CONCURRENCY)
        self.survivor = self.worker(CONCURRENCY)

    def start_api(self) -> None:
        """Of several processes."""
        self.api = self._start(
            "api", API_PORT=str(self._api_port), WEB_CONCURRENCY=str(API_PROCESSES)
        )
        self.api.await_answer(f"{self.api_url}/ping")

    def programs(self) -> dict[str, int]:
        """The long-lived ones, and their process ids."""
        return {
            "worker": self.survivor.pid,
            "API": self.api.pid,
            "log manager": self.logs_manager.pid,
            "nats-server": self.nats.pid,
        }

    def kill_one(self) -> str:
        """Kill something, and have it up again; what it was. From the main thread only."""
        names = list(self._breakdowns)
        weights = [weight for weight, _ in self._breakdowns.values()]
        [name] = self._chance.choices(names, weights)
        self._breakdowns[name][1]()
        self.kills[name] += 1
        return name

    def _kill_worker(self) -> None:
        self.victim.kill()
        self._replace_victim()

    def _drain_worker(self) -> None:
        self.victim.stop()
        self._replace_victim()

    def _replace_victim(self) -> None:
        self._forget(self.victim)
        self.victim = self.worker(CONCURRENCY)

    def _kill_api_process(self) -> None:
        """Its master starts another one."""
        if children := self.api.children():
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(children), signal.SIGKILL)

    def _kill_api(self) -> None:
        self.api.kill()
        self._forget(self.api)
        self.start_api()

    def _kill_logs(self) -> None:
        self.logs_manager.kill()
        self._forget(self.logs_manager)
        self.start_logs()

    def _kill_nats(self) -> None:
        self.nats.kill()
        self.nats.start()

    def _forget(self, process: Process) -> None:
        process.wait()
        self.workers = [each for each in self.workers if each is not process]
