"""What a step costs without Hades: the same container or sandbox, run by hand.

with docker_floor() as run_step: run_step()
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from executors.base import SHELL_ARGV
from executors.sandbox.images import ImageStore
from executors.sandbox.program import find_bwrap
from tests.acceptance.leftovers import docker_host

IMAGE = "alpine:latest"
SCRIPT = "true"

RunStep = Callable[[], None]
"""Runs one step to its end; may be called from several threads at once."""


@contextmanager
def docker_floor() -> Iterator[RunStep]:
    """Create, start, wait and remove, as plain requests to the Engine."""
    address = urlsplit(docker_host())
    socket = address.path if address.scheme == "unix" else None
    config = {
        "Image": IMAGE,
        "Entrypoint": [*SHELL_ARGV, SCRIPT],
        "HostConfig": {
            "LogConfig": {"Type": "none"},
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 4096,
        },
    }
    base_url = "http://docker" if socket else f"http://{address.netloc}"
    transport = httpx.HTTPTransport(uds=socket)
    with httpx.Client(base_url=base_url, transport=transport, timeout=120.0) as engine:

        def run_step() -> None:
            created = engine.post("/containers/create", json=config).raise_for_status()
            container = f"/containers/{created.json()['Id']}"
            engine.post(f"{container}/start").raise_for_status()
            ended = engine.post(f"{container}/wait").raise_for_status()
            assert ended.json()["StatusCode"] == 0
            engine.delete(container).raise_for_status()

        yield run_step


@contextmanager
def sandbox_floor(data_dir: Path) -> Iterator[RunStep]:
    """bwrap over the same image, started and waited for; `data_dir` is the executor's."""
    rootfs = ImageStore(data_dir / "images").get(IMAGE).rootfs
    argv = (
        *(str(find_bwrap()), "--unshare-all", "--die-with-parent"),
        *("--overlay-src", str(rootfs), "--tmp-overlay", "/"),
        *("--proc", "/proc", "--dev", "/dev"),
        *SHELL_ARGV,
        SCRIPT,
    )

    def run_step() -> None:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    yield run_step
