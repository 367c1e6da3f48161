"""Settings of the executors, read once by a composition root (`workers/main.py`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from environs import Env
from marshmallow.validate import OneOf

from executors.schema import parse_size


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorSettings:
    """All settings of this package."""

    executor: str = "docker"
    """`docker`, `sandbox` or `dummy`. `HADES_EXECUTOR`."""
    docker: DockerSettings = DockerSettings()
    sandbox: SandboxSettings = SandboxSettings()

    @classmethod
    def from_env(cls, env: Env) -> ExecutorSettings:
        """Raises environs.EnvError, naming the variable."""
        docker, sandbox = DockerSettings(), SandboxSettings()
        script_executor = env.str("DOCKER_SCRIPT_EXECUTOR", "")
        data_dir = env.str("HADES_DATA_DIR", "")
        return cls(
            executor=env.str("HADES_EXECUTOR", "") or cls().executor,
            docker=DockerSettings(
                host=env.str("DOCKER_HOST", "") or docker.host,
                script_executor=tuple(script_executor.split(" ")) if script_executor else (),
                cpu_limit=float(env.str("DOCKER_CPU_LIMIT", "") or 0),
                memory_limit=parse_size(env.str("DOCKER_MEMORY_LIMIT", "")),
            ),
            sandbox=SandboxSettings(
                data_dir=Path(data_dir).expanduser() if data_dir else sandbox.data_dir,
                host_fallback=env.bool("HADES_SANDBOX_HOST_FALLBACK", False),
                network=env.str(
                    "HADES_SANDBOX_NETWORK", "none", validate=OneOf(["none", "bridge"])
                ),
                host_loopback=env.bool("HADES_SANDBOX_HOST_LOOPBACK", False),
                uid=env.int("HADES_SANDBOX_UID", sandbox.uid),
            ),
        )
