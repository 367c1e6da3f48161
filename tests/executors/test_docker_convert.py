"""What the Engine is told, word for word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from executors.base import SHELL_ARGV
from executors.docker.convert import Engine, container_config, labels, volume_name
from executors.errors import LimitUnsupported
from executors.job import Job, Step
from executors.settings import DockerSettings

GIB = 1024**3
ENGINE = Engine(cores=8, cpu=True, memory=True, memory_swap=True, pids=True)
BASICS = {
    "Mounts": [{"Type": "volume", "Source": "hades-the-id-2", "Target": "/shared"}],
    "LogConfig": {"Type": "none"},
    "SecurityOpt": ["no-new-privileges"],
}
LABELS = {
    "hades.job_id": "the-id",
    "hades.attempt": "2",
    "hades.worker": "w1",
    "hades.owner": "o",
}


def config_of(
    step: Step, settings: DockerSettings | None = None, engine: Engine = ENGINE
) -> dict[str, Any]:
    job = Job(id="the-id", name="the name", priority=2, metadata={"A": "job"}, steps=(step,))
    return container_config(
        job,
        step,
        volume=volume_name(job.id, 2),
        labels=labels(job.id, 2, "w1", "o"),
        settings=settings or DockerSettings(),
        engine=engine,
    )


def host_config_of(step: Step, **settings: Any) -> dict[str, Any]:
    """Only what differs from the basics."""
    host_config = config_of(step, DockerSettings(**settings))["HostConfig"]
    return {key: value for key, value in host_config.items() if key not in BASICS}


def test_a_plain_step() -> None:
    assert config_of(Step(image="alpine", script="echo 'a b'")) == {
        "Image": "alpine",
        "Entrypoint": [*SHELL_ARGV, "echo 'a b'"],
        "Env": [
            "A=job",
            "hades.tum.de/priority=2",
            "hades.tum.de/priorityName=medium",
            "UUID=the-id",
            "JOB_NAME=the name",
        ],
        "WorkingDir": "/shared",
        "Labels": LABELS,
        "HostConfig": {**BASICS, "PidsLimit": 4096},
    }


def test_a_step_with_everything() -> None:
    step = Step(
        image="alpine",
        metadata={"A": "step", "B": "x=y\nz"},
        cpu_limit=2,
        memory_limit=GIB,
        memory_swap=2 * GIB,
        pids_limit=100,
        network="none",
    )
    assert config_of(step) == {
        "Image": "alpine",
        "Env": [
            "A=step",
            "hades.tum.de/priority=2",
            "hades.tum.de/priorityName=medium",
            "B=x=y\nz",
            "UUID=the-id",
            "JOB_NAME=the name",
        ],
        "WorkingDir": "/shared",
        "Labels": LABELS,
        "HostConfig": {
            **BASICS,
            "NanoCpus": 2_000_000_000,
            "Memory": GIB,
            "MemorySwap": 2 * GIB,
            "PidsLimit": 100,
            "NetworkMode": "none",
        },
    }


def test_a_configured_shell_takes_the_scripts_place_of_honour() -> None:
    settings = DockerSettings(script_executor=("/bin/zsh", "-c"))
    config = config_of(Step(image="alpine", script="a\nb"), settings)
    assert config["Entrypoint"] == ["/bin/zsh", "-c", "a\nb"]


def test_the_smaller_of_limit_and_cap_holds() -> None:
    caps = {"cpu_limit": 1.5, "memory_limit": GIB}
    capped = {"NanoCpus": 1_500_000_000, "Memory": GIB, "PidsLimit": 4096}
    assert host_config_of(Step(image="a"), **caps) == capped
    assert host_config_of(Step(image="a", cpu_limit=4, memory_limit=2 * GIB), **caps) == capped
    assert host_config_of(Step(image="a", cpu_limit=1, memory_limit=GIB // 2), **caps) == {
        "NanoCpus": 1_000_000_000,
        "Memory": GIB // 2,
        "PidsLimit": 4096,
    }


def test_more_cores_than_there_are_means_all_of_them() -> None:
    assert host_config_of(Step(image="a", cpu_limit=64))["NanoCpus"] == 8_000_000_000


def test_more_processes_than_linux_has_means_all_of_them() -> None:
    assert host_config_of(Step(image="a", pids_limit=2**40)) == {"PidsLimit": 2**22}


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("", {}),
        ("default", {}),
        ("none", {"NetworkMode": "none"}),
        ("bridge", {"NetworkMode": "bridge"}),
        ("mine", {"NetworkMode": "mine"}),
    ],
)
def test_networks(network: str, told: dict[str, str]) -> None:
    assert host_config_of(Step(image="a", network=network)) == {"PidsLimit": 4096, **told}


@pytest.mark.parametrize("network", ["host", "container:abc", "ns:/proc/1/ns/net"])
def test_a_network_of_somebody_else_is_refused(network: str) -> None:
    with pytest.raises(LimitUnsupported, match=r"^network "):
        config_of(Step(image="a", network=network))


@pytest.mark.parametrize(
    ("field", "kernel"),
    [
        ("cpu_limit", "cpu"),
        ("memory_limit", "memory"),
        ("memory_swap", "memory_swap"),
        ("pids_limit", "pids"),
    ],
)
def test_a_limit_that_the_kernel_cannot_hold_is_refused_by_its_name(
    field: str, kernel: str
) -> None:
    without = replace(ENGINE, **{kernel: False})
    with pytest.raises(LimitUnsupported, match=f"^{field} "):
        config_of(Step(image="a", **{field: 10_000_000}), engine=without)
    config_of(Step(image="a"), engine=without)


def test_what_the_engine_says_of_itself() -> None:
    info = {"NCPU": 2, "MemoryLimit": True, "SwapLimit": False, "CpuCfsQuota": True, "Name": "x"}
    assert Engine.from_info(info) == Engine(
        cores=2, cpu=True, memory=True, memory_swap=False, pids=False
    )
