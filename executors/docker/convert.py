"""From a step to what the Engine is told to create: dicts in the words of its API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from executors.base import LABEL_ATTEMPT, LABEL_JOB_ID, LABEL_OWNER, LABEL_WORKER, SHELL_ARGV
from executors.errors import LimitUnsupported
from executors.job import SHARED_DIR, Job, Step, environment
from executors.settings import DockerSettings

DEFAULT_PIDS = 4096
"""Processes and threads of a step that sets no limit: enough for builds, too few for a fork bomb
to take the machine."""
MOST_PIDS = 2**22
"""Linux has no more process ids than that, and refuses larger limits."""
OWN_NETWORKS = ("", "default", "none", "bridge")
"""Those that every Engine has; any other name is looked up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What the Engine's machine has, and which limits its kernel can hold."""

    cores: int
    memory: bool
    memory_swap: bool
    cpu: bool
    pids: bool
    root_dir: str = ""
    """Where it keeps everything, on its own machine."""

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> Engine:
        """From the answer to `GET /info`."""
        return cls(
            cores=info["NCPU"],
            memory=bool(info.get("MemoryLimit")),
            memory_swap=bool(info.get("SwapLimit")),
            cpu=bool(info.get("CpuCfsQuota")),
            pids=bool(info.get("PidsLimit")),
            root_dir=str(info.get("DockerRootDir") or ""),
        )


def labels(job_id: str, attempt: int, worker: str, owner: str) -> dict[str, str]:
    """On everything an attempt creates, so that it can be found without its worker."""
    return {
        LABEL_JOB_ID: job_id,
        LABEL_ATTEMPT: str(attempt),
        LABEL_WORKER: worker,
        LABEL_OWNER: owner,
    }


def volume_name(job_id: str, attempt: int) -> str:
    """Of the attempt's `/shared`."""
    return f"hades-{job_id}-{attempt}"


def container_config(
    job: Job,
    step: Step,
    *,
    volume: str,
    labels: dict[str, str],
    settings: DockerSettings,
    engine: Engine,
) -> dict[str, Any]:
    """The body of `POST /containers/create`. Raises LimitUnsupported."""
    config: dict[str, Any] = {
        "Image": step.image,
        "Env": [f"{name}={value}" for name, value in environment(job, step).items()],
        "WorkingDir": SHARED_DIR,
        "Labels": labels,
        "HostConfig": {
            "Mounts": [{"Type": "volume", "Source": volume, "Target": SHARED_DIR}],
            "LogConfig": {"Type": "none"},
            "SecurityOpt": ["no-new-privileges"],
            **limits(step, settings, engine),
            **network(step),
        },
    }
    if step.script:
        config["Entrypoint"] = [*(settings.script_executor or SHELL_ARGV), step.script]
    return config


def limits(step: Step, settings: DockerSettings, engine: Engine) -> dict[str, int]:
    """The smaller of the step's limit and the worker's cap; absent where there is neither."""
    cpu = smaller(step.cpu_limit, settings.cpu_limit)
    memory = smaller(step.memory_limit, settings.memory_limit)
    for field, asked, held in (
        ("cpu_limit", cpu, engine.cpu),
        ("memory_limit", memory, engine.memory),
        ("memory_swap", step.memory_swap, engine.memory_swap),
        ("pids_limit", step.pids_limit, engine.pids),
    ):
        if asked and not held:
            raise LimitUnsupported(field, "the kernel of this Engine cannot enforce it")
    pids = step.pids_limit or (DEFAULT_PIDS if engine.pids else 0)
    asked_for = {
        "NanoCpus": round(min(cpu, engine.cores) * 1e9),  # the Engine refuses more than it has
        "Memory": int(memory),
        "MemorySwap": step.memory_swap,
        "PidsLimit": min(pids, MOST_PIDS),
    }
    return {name: value for name, value in asked_for.items() if value}


def smaller(limit: float, cap: float) -> float:
    """The one that binds; 0 stands for none."""
    return min(limit, cap) if limit and cap else limit or cap


def network(step: Step) -> dict[str, str]:
    """Raises LimitUnsupported for what would share another network than the step's own."""
    if step.network == "host" or ":" in step.network:
        raise LimitUnsupported("network", f"{step.network} would not be isolated")
    if step.network in ("", "default"):
        return {}
    return {"NetworkMode": step.network}
