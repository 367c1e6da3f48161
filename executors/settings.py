"""Settings of the executors, read once by a composition root (`workers/main.py`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from environs import Env, EnvError
from marshmallow.validate import OneOf, Range

from executors.schema import parse_size

MIN_FREE_DISK = 512 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class DockerSettings:
    """How the `docker` executor reaches its Engine, and the caps on what a container may take."""

    host: str = "unix:///var/run/docker.sock"
    """The Engine's address. `DOCKER_HOST`."""
    script_executor: tuple[str, ...] = ()
    """Argv before the script, split at single spaces; empty: `executors.base.SHELL_ARGV`.
    `DOCKER_SCRIPT_EXECUTOR`."""
    cpu_limit: float = 0.0
    """Cores; 0: no cap. `DOCKER_CPU_LIMIT`."""
    memory_limit: int = 0
    """Bytes, written like `2g`; 0: no cap. `DOCKER_MEMORY_LIMIT`."""
    min_free_disk: int = MIN_FREE_DISK
    """Bytes; with less on the disk of an Engine of this machine no job is taken; 0: whatever there
    is. `HADES_MIN_FREE_DISK`."""


def default_data_dir() -> Path:
    """Steps of a worker that is root run as another user, to whom root's home is closed."""
    if os.geteuid() == 0:
        return Path("/var/lib/hades")
    return Path("~/.local/share/hades").expanduser()


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """Where the `sandbox` executor keeps its images and workspaces, and what it allows."""

    data_dir: Path = field(default_factory=default_data_dir)
    """Holds `images/` and `workspaces/`. `HADES_DATA_DIR`."""
    host_fallback: bool = False
    """Whether an image that can't be had is replaced by the host's own userland, read-only.
    `HADES_SANDBOX_HOST_FALLBACK`."""
    network: str = "none"
    """What a step gets that names no network: `none` or `bridge`. `HADES_SANDBOX_NETWORK`."""
    host_loopback: bool = False
    """Whether a step with a network reaches the host's loopback, at 10.0.2.2.
    `HADES_SANDBOX_HOST_LOOPBACK`."""
    uid: int = 61_000
    """User and group id that steps run as when the worker is root. `HADES_SANDBOX_UID`."""
    min_free_disk: int = MIN_FREE_DISK
    """Bytes; with less on the disk of `data_dir` no job is taken; 0: whatever there is.
    `HADES_MIN_FREE_DISK`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorSettings:
    """All settings of this package."""

    executor: str = "docker"
    """`docker`, `sandbox` or `dummy`. `HADES_EXECUTOR`."""
    pull_timeout: float = 600.0
    """Seconds that an image of a step may take to be here; not counted as the job's time.
    `HADES_PULL_TIMEOUT`."""
    docker: DockerSettings = DockerSettings()
    sandbox: SandboxSettings = SandboxSettings()

    @classmethod
    def from_env(cls, env: Env) -> ExecutorSettings:
        """Raises environs.EnvError, naming the variable."""
        docker, sandbox = DockerSettings(), SandboxSettings()
        script_executor = env.str("DOCKER_SCRIPT_EXECUTOR", "")
        data_dir = env.str("HADES_DATA_DIR", "")
        min_free_disk = _size(env, "HADES_MIN_FREE_DISK", MIN_FREE_DISK)
        return cls(
            executor=env.str("HADES_EXECUTOR", "") or cls().executor,
            pull_timeout=_pull_timeout(env),
            docker=DockerSettings(
                host=env.str("DOCKER_HOST", "") or docker.host,
                script_executor=tuple(script_executor.split(" ")) if script_executor else (),
                cpu_limit=float(env.str("DOCKER_CPU_LIMIT", "") or 0),
                memory_limit=_size(env, "DOCKER_MEMORY_LIMIT", 0),
                min_free_disk=min_free_disk,
            ),
            sandbox=SandboxSettings(
                data_dir=Path(data_dir).expanduser() if data_dir else sandbox.data_dir,
                host_fallback=env.bool("HADES_SANDBOX_HOST_FALLBACK", False),
                network=env.str(
                    "HADES_SANDBOX_NETWORK", "none", validate=OneOf(["none", "bridge"])
                ),
                host_loopback=env.bool("HADES_SANDBOX_HOST_LOOPBACK", False),
                uid=env.int("HADES_SANDBOX_UID", sandbox.uid),
                min_free_disk=min_free_disk,
            ),
        )


def _pull_timeout(env: Env) -> float:
    if not env.str("HADES_PULL_TIMEOUT", ""):
        return ExecutorSettings().pull_timeout
    return env.float("HADES_PULL_TIMEOUT", validate=Range(min=0, min_inclusive=False))


def _size(env: Env, name: str, default: int) -> int:
    """Bytes, written like `512m`; a plain 0 is none."""
    text = env.str(name, "")
    try:
        return 0 if text == "0" else parse_size(text) if text else default
    except ValueError as error:
        raise EnvError(f'Environment variable "{name}" invalid: {error}') from error
