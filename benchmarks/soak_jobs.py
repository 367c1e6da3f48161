"""The jobs of the soak, and who submits and cancels them."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from tests.faults.house import FaultHouse
from tests.faults.jobs import job, ticking

POSTS_AT_ONCE = 8
AGAIN_SECONDS = 0.5
"""Before a request is repeated that got no answer."""
GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A job, and what its client does."""

    body: dict[str, Any]
    insists: bool = False
    """Posts it with an idempotency key, until there is an answer."""
    cancel_after: float | None = None
    """Seconds."""


def wish(chance: random.Random, house: FaultHouse) -> Wish:
    """Any job."""
    scripts = [_script(chance) for _ in range(chance.choice((1, 1, 2, 3)))]
    fields: dict[str, Any] = {"priority": chance.choice((1, 2, 3))}
    kind = chance.random()
    if kind < 0.15:
        scripts[-1] = "echo no; exit 3"
    elif kind < 0.25:
        scripts[-1] = 'echo "attempt $HADES_ATTEMPT"; exit $((RANDOM % 2))'
        fields["retry"] = {"max": 2, "backoff_seconds": 0.2}
    elif kind < 0.30:
        fields["metadata"] = {"NOTE": "x" * 2_000}
    if chance.random() < 0.3:
        answers = chance.choice(((200,), (200,), (500, 200), (503, 500, 200), (500,)))
        fields |= house.calling(*answers)
    return Wish(
        body=job(*scripts, **fields),
        insists=chance.random() < 0.4,
        cancel_after=chance.uniform(0.0, 2.0) if chance.random() < 0.1 else None,
    )


def _script(chance: random.Random) -> str:
    return ticking(chance.choice((0.2, 0.2, 0.4, 0.8)))


class Clients:
    """Submit jobs at a steady rate, whatever becomes of them. Within the block."""

    def __init__(self, house: FaultHouse, chance: random.Random, *, rate: float) -> None:
        """`rate` is in jobs a second."""
        self.posted = 0
        self.cancelled = 0
        self._house = house
        self._chance = chance
        self._pause = 1 / rate
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(POSTS_AT_ONCE)
        self._thread = threading.Thread(target=self._submit, name="clients", daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Submit no more; what was begun is seen through. Idempotent."""
        self._over.set()
        self._thread.join()
        self._pool.shutdown()

    def _submit(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += self._pause
            self._pool.submit(self._see_through, wish(self._chance, self._house))
            self.posted += 1

    def _see_through(self, wanted: Wish) -> None:
        job_id = self._post(wanted)
        if job_id and wanted.cancel_after is not None:
            self._over.wait(wanted.cancel_after)
            self._cancel(job_id)

    def _post(self, wanted: Wish) -> str:
        headers = {"Idempotency-Key": str(uuid4())} if wanted.insists else {}
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            answer = self._house.ask(wanted.body, **headers)
            if answer is not None and answer.is_success:
                return str(answer.json()["id"])
            if not wanted.insists or time.monotonic() > deadline:
                return ""
            time.sleep(AGAIN_SECONDS)

    def _cancel(self, job_id: str) -> None:
        try:
            self._house.cancel(job_id)
            self.cancelled += 1
        except httpx.HTTPError:
            return
