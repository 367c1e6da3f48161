"""What the tests of the `sandbox` executor share."""

from __future__ import annotations

import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from executors.base import StepResult
from executors.job import Job, Step
from executors.sandbox.executor import SandboxExecutor
from executors.settings import SandboxSettings
from tests.executors.contract import Recorder, job_of
from tests.executors.image_archives import (
    directory,
    docker_save,
    file,
    layer,
    link,
    tar_of,
)
from tests.images import busybox

IMAGE = busybox.TAGS[0]
MISSING = "127.0.0.1:1/no-such-image:latest"


@contextmanager
def data_directory() -> Iterator[Path]:
    """One that the steps' user can reach, with the busybox image in it; pytest's own is closed."""
    with TemporaryDirectory(prefix="hades-sandbox-") as name:
        path = Path(name)
        path.chmod(0o711)
        archive = busybox.write_archive(path / "busybox.tar")
        sandbox_executor(path).images.load(archive)
        yield path


def sandbox_executor(data_dir: Path, **settings: Any) -> SandboxExecutor:
    return SandboxExecutor(SandboxSettings(data_dir=data_dir, **settings), "tests")


def load_image(executor: SandboxExecutor, tag: str, *entries: Any, **config: Any) -> str:
    """An image of busybox and these entries; `config` are its settings, like Entrypoint."""
    program = file("bin/busybox", busybox.static_busybox(), 0o755)
    links = [link(f"bin/{name}", "busybox") for name in ("cat", "id", "ls", "sh")]
    layers = [layer(directory("bin"), program, *links, *entries)]
    archive = executor.data_dir / "image.tar"
    archive.write_bytes(tar_of(docker_save([tag], layers, **config)))
    executor.images.load(archive)
    return tag


def run(
    executor: SandboxExecutor, step: Step, timeout: float | None = None
) -> tuple[StepResult, Recorder]:
    """A job of one step."""
    sink = Recorder()
    with executor.open(job_of(step), 1) as workspace:
        return workspace.run_step(step, sink, timeout), sink


def processes_of(job: Job) -> list[str]:
    """The command lines of the sandboxes that run for a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if line.startswith(f"hades-sandbox {job.id}"):
            found.append(line)
    return found


def eventually(condition: Any, patience: float = 30.0) -> bool:
    """Whether it comes true in time."""
    give_up = time.monotonic() + patience
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def public_python() -> str | None:
    """An interpreter of this version that any user can execute, and find our modules with."""
    modules = (Path(__file__).parent, Path(sysconfig.get_path("purelib")))
    if not all(_open_to_all(path) for path in modules):
        return None
    candidates = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    return next((path for path in candidates if _open_to_all(Path(path))), None)


def _open_to_all(path: Path) -> bool:
    if not path.exists():
        return False
    resolved = path.resolve()
    return all(part.stat().st_mode & 0o001 for part in (resolved, *resolved.parents))
