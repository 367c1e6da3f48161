"""The points of an attempt at which a worker can be made to halt, from outside the product.

A job asks for it in its metadata: `HALT=<phase>`. The worker of `tests.faults.halting_worker`
writes a line into the journal and waits there until the test opens the gate, or ends it.
"""

from __future__ import annotations

import fcntl
import os
from enum import StrEnum
from pathlib import Path

from tests.brokers.journal import append

HALT = "HALT"


class Phase(StrEnum):
    """In the order in which an attempt reaches them."""

    FETCHED = "fetched"
    """The worker has the message; the record does not know."""
    CLAIMED = "claimed"
    """The record names the attempt; there is no workspace."""
    PREPARING = "preparing"
    """There is a workspace; the step's image is about to be had."""
    CREATED = "created"
    """The step's container, or sandbox, is there and has not begun."""
    RUNNING = "running"
    """The step runs. Nobody halts: the job itself says so."""
    BETWEEN = "between"
    """The first step is over, the second one not begun."""
    FINISHING = "finishing"
    """All steps are over; the record does not know."""
    FINISHED = "finished"
    """The record says so; nobody was told."""
    TOLD = "told"
    """Everybody was told; the workspace is still there."""
    ACKING = "acking"
    """All is done; the message is still on the queue."""


CLAIMED_ONCE = frozenset({Phase.FETCHED, Phase.FINISHED, Phase.TOLD, Phase.ACKING})
"""A worker that is lost here costs the job no attempt."""


def halt(phase: str, who: str) -> None:
    """Tell that `who` has come so far, and wait for the gate; other threads go on meanwhile."""
    append(os.environ["FAULT_JOURNAL"], 0, phase, who)
    with Path(os.environ["FAULT_GATE"]).open() as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
