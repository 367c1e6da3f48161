"""Listens to what the Engine does with containers of jobs; it keeps only its last 256 events."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from docker import APIClient

from executors.base import LABEL_JOB_ID
from tests.acceptance.leftovers import docker_host
from tests.acceptance.processes import until

KINDS = ["create", "start", "die", "destroy"]


class EngineEvents:
    """Of all jobs, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[str, str]] = []

    def listen(self, stream: Iterable[dict[str, Any]]) -> None:
        """Returns when the stream ends."""
        for event in stream:
            job_id = event["Actor"]["Attributes"][LABEL_JOB_ID]
            self._events.append((job_id, event["Action"]))

    def of(self, job_id: str) -> list[str]:
        """What has happened to the job's containers, once they are gone."""
        until(lambda: self._so_far(job_id)[-1:] == ["destroy"], "its last container is gone")
        return self._so_far(job_id)

    def _so_far(self, job_id: str) -> list[str]:
        return [action for job, action in self._events.copy() if job == job_id]


@contextmanager
def engine_events() -> Iterator[EngineEvents]:
    """Those from now on."""
    api = APIClient(docker_host())
    events = EngineEvents()
    stream = api.events(
        filters={"label": LABEL_JOB_ID, "type": "container", "event": KINDS}, decode=True
    )
    thread = threading.Thread(target=events.listen, args=(stream,), daemon=True)
    thread.start()
    try:
        yield events
    finally:
        stream.close()
        thread.join()
        api.close()
