"""One installation an executor, shared by all tests that do not break it for good."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from executors.errors import ExecutorUnavailable
from executors.sandbox.executor import SandboxExecutor
from executors.settings import SandboxSettings
from tests.acceptance.stack import Stack
from tests.conftest import unavailable
from tests.images import build

EXECUTORS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("docker", "sandbox")]


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary one that the sandbox's steps, who are another user, can reach."""
    with TemporaryDirectory(prefix="hades-acceptance-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="session", params=EXECUTORS)
def house(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """NATS, the API and the log manager, with a small image; no worker."""
    with open_directory() as directory:
        if request.param == "sandbox":
            need_sandbox(directory)
        else:
            request.getfixturevalue("engine")
        with Stack(directory, request.param, HADES_SANDBOX_HOST_LOOPBACK="true") as stack:
            load_image(stack, "busybox")
            yield stack


@pytest.fixture(scope="session")
def debian(house: Stack) -> None:
    """The house also has the images with bash, git and Python."""
    try:
        load_image(house, "debian")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        unavailable(f"no image of Debian can be made: {error}")


def need_sandbox(directory: Path) -> None:
    """Namespaces, and a network for them."""
    settings = SandboxSettings(data_dir=directory / "hades", network="bridge", host_loopback=True)
    try:
        SandboxExecutor(settings, "tests").check()
    except ExecutorUnavailable as error:
        unavailable(str(error))


def load_image(stack: Stack, name: str) -> None:
    """Into the Engine, or into the sandbox's store with the command that an operator would use."""
    if stack.executor == "docker":
        build.load(name)
        return
    with TemporaryDirectory(prefix="hades-images-") as directory:
        archive = build.save(name, Path(directory))
        done = stack.hades("images", "load", str(archive))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def stack(house: Stack) -> Iterator[Stack]:
    """Afterwards every job must be over, and nothing of it left; workers of the test are ended."""
    house.recent(forget=True)
    kept = len(house.workers)
    yield house
    house.settle()
    house.stop_workers(kept)
    assert house.leftovers() == []


@pytest.fixture(scope="module")
def worker(house: Stack) -> Iterator[None]:
    """One with a slot for each of two jobs, for all tests of a module."""
    house.start_worker(concurrency=2)
    yield
    house.stop_workers()


@pytest.fixture(scope="module")
def office() -> Iterator[Stack]:
    """An installation that runs no processes for its jobs, for tests of all the rest."""
    with open_directory() as directory, Stack(directory, "dummy") as stack:
        yield stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the programs have printed since the test began."""
    report = yield
    funcargs = getattr(item, "funcargs", {})
    stack = funcargs.get("stack") or funcargs.get("office")
    if report.failed and stack is not None:
        report.sections.append(("what the programs printed", stack.recent()))
    return report
