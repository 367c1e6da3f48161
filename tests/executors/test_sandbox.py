"""The `sandbox` executor keeps the contract, with real namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest

from executors.base import Executor
from executors.job import Job
from executors.sandbox.executor import SandboxExecutor
from executors.settings import SandboxSettings
from tests.executors.contract import ExecutorContract
from tests.images import busybox

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """Not pytest's own directory: the steps' user may not go there."""
    with TemporaryDirectory(prefix="hades-sandbox-") as directory:
        path = Path(directory)
        path.chmod(0o711)
        yield path


@pytest.fixture(scope="module")
def executor(data_dir: Path) -> SandboxExecutor:
    executor = SandboxExecutor(SandboxSettings(data_dir=data_dir), "tests")
    executor.images.load(busybox.write_archive(data_dir / "busybox.tar"))
    return executor


@pytest.fixture
def image() -> str:
    return busybox.TAGS[0]


@pytest.fixture
def nowhere(tmp_path: Path) -> SandboxExecutor:
    (tmp_path / "file").touch()
    return SandboxExecutor(SandboxSettings(data_dir=tmp_path / "file"), "tests")


class TestSandbox(ExecutorContract):
    """On the image without bash."""

    unsupported: ClassVar = {"cpu_limit": 1, "memory_limit": 2**20, "memory_swap": 2**20}

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        assert isinstance(executor, SandboxExecutor)
        assert executor.workspaces.of_job(job.id) == []
        assert processes_of(job) == []


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
