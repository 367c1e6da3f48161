"""Settings of the worker process, read once by `workers/main.py`."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from environs import Env

from executors.schema import parse_size


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """What one worker process is called, and what it lets through."""

    name: str
    """By which records and labels call this process: its host and its number."""
    log_limit: int
    """Characters of output that a step may log before its log is cut. `HADES_LOG_LIMIT`."""
    concurrency: int
    """Jobs that it runs at once. `CONCURRENCY`."""
    port: int
    """Where it answers probes, on all addresses; 0: nowhere. `HADES_WORKER_PORT`."""
    grace: float
    """Seconds that a stopping worker gives its running jobs before it hands them back.
    `HADES_SHUTDOWN_TIMEOUT`."""
    debug: bool
    """Whether to log details. `DEBUG`."""

    @classmethod
    def from_env(cls, env: Env) -> WorkerSettings:
        """Raises environs.EnvError, naming the variable."""
        return cls(
            name=f"{socket.gethostname()}-{os.getpid()}",
            log_limit=parse_size(env.str("HADES_LOG_LIMIT", "64m")),
            concurrency=int(env.str("CONCURRENCY", "") or 1),
            port=env.int("HADES_WORKER_PORT", 8084) if env.str("HADES_WORKER_PORT", "") else 8084,
            grace=float(env.str("HADES_SHUTDOWN_TIMEOUT", "") or 600),
            debug=env.str("DEBUG", "") == "true",
        )
