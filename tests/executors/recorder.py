"""What tests of executors hand to them: jobs, and sinks that remember."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from executors.base import OutputStream
from executors.job import Job, Step

MIB = 1024 * 1024


class Recorder:
    """A sink that keeps everything, in the order in which it came."""

    def __init__(self, on_output: Callable[[], object] = lambda: None) -> None:
        """`on_output` is called after each piece, by the thread that wrote it."""
        self.opened: list[str] = []
        self.chunks: list[tuple[OutputStream, bytes]] = []
        self._on_output = on_output

    def open(self, container_id: str) -> None:
        assert not self.chunks, "output came before the sink was opened"
        self.opened.append(container_id)

    def write(self, stream: OutputStream, data: bytes) -> None:
        assert self.opened, "output came before the sink was opened"
        self.chunks.append((stream, bytes(data)))
        self._on_output()

    @property
    def stdout(self) -> bytes:
        return b"".join(data for stream, data in self.chunks if stream is OutputStream.STDOUT)

    @property
    def stderr(self) -> bytes:
        return b"".join(data for stream, data in self.chunks if stream is OutputStream.STDERR)


def job_of(*steps: Step, **fields: Any) -> Job:
    """A job with an id of its own."""
    return Job(**{"id": str(uuid.uuid4()), "name": "contract", "steps": steps, **fields})
