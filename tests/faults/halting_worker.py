"""A worker that halts where its jobs ask for it: `dramatiq tests.faults.halting_worker:setup`.

All of it is the real one; some of its methods are wrapped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from brokers.job_store import JobStore
from brokers.nats.consumer import NatsConsumer
from executors.docker.workspace import DockerWorkspace
from executors.sandbox.process import Sandbox
from executors.sandbox.workspace import SandboxWorkspace
from tests.faults.phases import HALT, Phase, halt
from workers import main
from workers.runner import Runner

_here = threading.local()
"""Each job has a thread for itself: its id, and the phase that it asks for."""


def setup() -> None:
    """What the product's `setup` does, with halts."""
    _wrap(JobStore, "claim", before=_meet, after=_halt_at(Phase.CLAIMED))
    for workspace in (DockerWorkspace, SandboxWorkspace):
        _wrap(workspace, "prepare", before=_halt_at(Phase.PREPARING))
    _wrap(DockerWorkspace, "_start", before=_halt_at(Phase.CREATED))
    _wrap(Sandbox, "release", before=_halt_at(Phase.CREATED))
    _wrap(Runner, "_begin", before=_halt_between)
    _wrap(JobStore, "finish", before=_halt_at(Phase.FINISHING), after=_halt_at(Phase.FINISHED))
    _wrap(Runner, "end", after=_halt_at(Phase.TOLD))
    _wrap(NatsConsumer, "ack", before=_halt_at(Phase.ACKING))
    main.setup()


def _wrap(
    owner: type,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    wrapped = getattr(owner, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before:
            before(*args)
        result = wrapped(self, *args, **kwargs)
        if after:
            after(*args)
        return result

    setattr(owner, name, call)


def _meet(job: Any, *_: Any) -> None:
    _here.job_id, _here.phase = job.id, job.metadata.get(HALT, "")
    _halt_at(Phase.FETCHED)()


def _halt_between(_: Any, index: int) -> None:
    if index:
        _halt_at(Phase.BETWEEN)()


def _halt_at(phase: Phase) -> Callable[..., None]:
    def reached(*_: Any) -> None:
        if getattr(_here, "phase", "") == phase:
            _here.phase = ""
            halt(phase, _here.job_id)

    return reached
