"""Jobs that tell for how long they are alive, and at what phase they want their worker to halt."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.faults.phases import HALT, Phase

IMAGE = "alpine:latest"


def ticking(seconds: float, says: str = "ready") -> str:
    """A script that tells for so long that it is alive."""
    return (
        f"echo {says}; n=0; while [ $n -lt {int(seconds * 5)} ]; do n=$((n+1)); "
        'echo "tick $(cut -d" " -f1 /proc/uptime)"; sleep 0.2; done; echo done'
    )


def job(*scripts: str, image: str = IMAGE, network: str = "", **fields: Any) -> dict[str, Any]:
    """Of a step for each script."""
    steps = [{"image": image, "script": script, "network": network} for script in scripts]
    return {"name": f"job {uuid4()}", "steps": steps, **fields}


def halting(phase: Phase, **fields: Any) -> dict[str, Any]:
    """A job of two steps that halts there."""
    first = ticking(4.0 if phase is Phase.RUNNING else 0.4)
    return job(first, ticking(0.4), metadata={HALT: phase}, **fields)
