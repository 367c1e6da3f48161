"""Settings of the `hades` command itself, and the environment it hands to what it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import dotenv
from environs import Env
from marshmallow.validate import Range

ROOT = Path(__file__).resolve().parents[1]
"""The directory that holds `app`, `brokers`, `executors` and `workers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CliSettings:
    """What `hades` needs to know to start the processes."""

    api_port: int = 8080
    """`API_PORT`."""
    logs_port: int = 8081
    """`HADESLOGMANAGER_API_PORT`."""
    web_concurrency: int = 2
    """Processes that serve the API. `WEB_CONCURRENCY`."""
    concurrency: int = 1
    """Jobs that one worker runs at once. `CONCURRENCY`."""
    shutdown_timeout: float = 600.0
    """Seconds that a stopping worker gives its running jobs. `HADES_SHUTDOWN_TIMEOUT`."""
    executor: str = ""
    """Empty: `hades dev` looks for itself. `HADES_EXECUTOR`."""
    docker_host: str = "unix:///var/run/docker.sock"
    """`DOCKER_HOST`."""
    host_fallback: str = ""
    """As set; empty: `hades dev` turns it on. `HADES_SANDBOX_HOST_FALLBACK`."""

    @classmethod
    def from_env(cls, env: Env) -> CliSettings:
        """An empty variable counts as unset. Raises environs.EnvError, naming the variable."""
        plain = cls()
        return cls(
            api_port=_number(env, "API_PORT", plain.api_port),
            logs_port=_number(env, "HADESLOGMANAGER_API_PORT", plain.logs_port),
            web_concurrency=_number(env, "WEB_CONCURRENCY", plain.web_concurrency),
            concurrency=_number(env, "CONCURRENCY", plain.concurrency),
            shutdown_timeout=_number(env, "HADES_SHUTDOWN_TIMEOUT", int(plain.shutdown_timeout)),
            executor=env.str("HADES_EXECUTOR", ""),
            docker_host=env.str("DOCKER_HOST", "") or plain.docker_host,
            host_fallback=env.str("HADES_SANDBOX_HOST_FALLBACK", ""),
        )


def _number(env: Env, name: str, default: int) -> int:
    if not env.str(name, ""):
        return default
    return env.int(name, validate=Range(min=1))


def load_dotenv(directory: Path) -> None:
    """Take over the variables of `directory/.env`, if there is one; those that are set win."""
    dotenv.load_dotenv(directory / ".env")  # environs would keep them to itself


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, for a process that it starts."""
    return {**os.environ, **changes}  # noqa: TID251  the child gets what we got
