"""What jobs have left on this machine, found by other means than the executors' own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from docker import APIClient

from executors.base import LABEL_JOB_ID
from executors.settings import DockerSettings
from tests.acceptance.processes import read_or_empty


def docker_host() -> str:
    """Where the Engine of these tests is."""
    return os.environ.get("DOCKER_HOST") or DockerSettings().host


def in_engine(job_ids: Collection[str], host: str = "") -> Iterator[str]:
    """Containers, running or not, and volumes."""
    filters = {"label": LABEL_JOB_ID}
    api = APIClient(host or docker_host(), timeout=60)
    try:
        for container in api.containers(all=True, filters=filters):
            if container["Labels"][LABEL_JOB_ID] in job_ids:
                yield f"container {container['Id']}"
        for volume in api.volumes(filters=filters)["Volumes"] or ():
            if volume["Labels"][LABEL_JOB_ID] in job_ids:
                yield f"volume {volume['Name']}"
    finally:
        api.close()


def in_workspaces(data_dir: Path) -> Iterator[str]:
    """Directories of attempts, and anything mounted."""
    root = data_dir / "workspaces"
    for path in root.iterdir() if root.exists() else ():
        yield f"directory {path}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if f"{data_dir}/" in line:
            yield f"mount {line.split()[4]}"


def processes(job_ids: Collection[str], data_dir: Path) -> Iterator[str]:
    """Those that know themselves to be a step's, and those that serve one.

    A step's environment names its job; a helper's arguments name the job or its workspace.
    """
    marks = {f"UUID={job_id}".encode() for job_id in job_ids}
    hints = [job_id.encode() for job_id in job_ids] + [f"{data_dir}/workspaces".encode()]
    for entry in Path("/proc").glob("[0-9]*"):
        command = read_or_empty(entry / "cmdline")
        variables = read_or_empty(entry / "environ").split(b"\0")
        if not marks.isdisjoint(variables) or any(hint in command for hint in hints):
            yield f"process {entry.name}: {command.replace(bytes(1), b' ').decode()}"
