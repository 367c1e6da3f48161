"""A machine that has run out of something, and what dead workers left on it; all of it real."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executors.errors import ExecutorUnavailable
from executors.job import Step
from executors.sandbox.executor import SandboxExecutor
from tests.conftest import unavailable
from tests.executors.contract import MIB, Recorder, job_of
from tests.executors.disks import fill, remount, small_disk
from tests.executors.sandboxes import IMAGE, MISSING, data_directory, run, sandbox_executor
from tests.executors.trickle import trickling_registry
from tests.images import busybox

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
TRUE = Step(image=IMAGE, script="true")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with data_directory() as path:
        try:
            sandbox_executor(path).check()
        except ExecutorUnavailable as error:
            unavailable(str(error))
        yield path


def small_executor(disk: Path, floor: int = 0) -> SandboxExecutor:
    """With the image of the tests in its store."""
    executor = sandbox_executor(disk / "data", min_free_disk=floor)
    executor.images.load(busybox.write_archive(disk / "busybox.tar"))
    executor.check()
    return executor


# --- what can run out


@as_root
def test_on_a_full_disk_no_job_can_run_until_there_is_room() -> None:
    with small_disk("32m") as disk:
        executor = small_executor(disk)
        full = fill(disk)
        with pytest.raises(ExecutorUnavailable, match="the disk of HADES_DATA_DIR is full"):
            executor.check()
        with pytest.raises(ExecutorUnavailable, match="No space left"):
            run(executor, TRUE)
        full.unlink()
        executor.check()
        assert run(executor, TRUE)[0].succeeded


@as_root
def test_a_step_that_fills_the_disk_fails_by_itself() -> None:
    with small_disk("32m") as disk:
        executor = small_executor(disk)
        step = Step(image=IMAGE, script="cat /dev/zero > file")
        result, sink = run(executor, step)
        assert result.exit_code == 1
        assert b"No space left" in sink.stderr
        executor.check()


@as_root
def test_an_image_that_does_not_fit_on_the_disk_is_the_machines_failure() -> None:
    with small_disk("16m") as disk, trickling_registry() as registry:
        executor = small_executor(disk)
        full = fill(disk)
        with pytest.raises(ExecutorUnavailable, match="No space left"):
            executor.images.get(registry.image)
        full.unlink()


@as_root
def test_a_disk_below_the_floor_is_told_before_it_is_full() -> None:
    with small_disk("64m") as disk:
        executor = small_executor(disk, floor=16 * MIB)
        os.truncate(fill(disk), 50 * MIB)
        with pytest.raises(ExecutorUnavailable, match=r"MiB are free, .* asks for 16 MiB"):
            executor.check()
        assert run(executor, TRUE)[0].succeeded


@as_root
def test_a_disk_that_takes_hardly_a_file_more_is_told() -> None:
    with small_disk("64m", files=2000) as disk:
        with pytest.raises(ExecutorUnavailable, match=r"takes only 1\d\d\d more files"):
            sandbox_executor(disk, min_free_disk=MIB).check()


@as_root
def test_on_a_disk_that_cannot_be_written_to_no_job_can_run() -> None:
    with small_disk("32m") as disk:
        executor = small_executor(disk)
        remount(disk, "ro")
        with pytest.raises(ExecutorUnavailable, match="can't be written to"):
            executor.check()
        with pytest.raises(ExecutorUnavailable, match="Read-only file system"):
            run(executor, TRUE)
        remount(disk, "rw")
        executor.check()


@contextmanager
def open_files(spare: int) -> Iterator[None]:
    """So many more than there are can be opened in the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        most = max(map(int, os.listdir("/proc/self/fd"))) if spare else lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most + spare, limits[0]), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_that_may_open_no_more_files_can_run_nothing(data_dir: Path) -> None:
    """Wherever it is that there is one too few."""
    executor = sandbox_executor(data_dir)
    run(executor, TRUE)
    before = len(os.listdir("/proc/self/fd"))
    outcomes = set()
    for spare in range(24):
        try:
            with open_files(spare):
                result, _ = run(executor, TRUE)
            outcomes.add(result.succeeded)
        except ExecutorUnavailable as error:
            outcomes.add("Too many open files" in str(error))
            outcomes.add("unavailable")
        executor.reap_orphans()
        assert executor.workspaces.of_job("") == []
    assert outcomes == {True, "unavailable"}
    assert len(os.listdir("/proc/self/fd")) == before
    executor.check()


# --- what dead workers left


def test_a_directory_that_was_being_made_goes_unless_somebody_is_at_it(data_dir: Path) -> None:
    executor = sandbox_executor(data_dir)
    left, used = (executor.workspaces.root / f".{digit * 16}" for digit in "ab")
    left.mkdir()
    used.mkdir()
    handle = os.open(used, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert executor.reap_orphans() == 1
    assert (left.exists(), used.exists()) == (False, True)
    os.close(handle)
    assert executor.reap_orphans() == 1
    assert not used.exists()


def test_workspaces_can_be_made_while_orphans_are_looked_for(data_dir: Path) -> None:
    executor, over = sandbox_executor(data_dir), threading.Event()

    def look() -> None:
        while not over.is_set():
            executor.reap_orphans()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            with executor.workspaces.create(job_of().id, 1) as home:
                assert (home / "shared").is_dir()
    finally:
        over.set()
        thread.join()


PULLER = """
import sys
from pathlib import Path
from tests.executors.sandboxes import sandbox_executor

sandbox_executor(Path(sys.argv[1])).images.get(sys.argv[2])
"""


def test_what_a_killed_worker_has_half_pulled_goes(data_dir: Path) -> None:
    executor = sandbox_executor(data_dir)
    incoming = data_dir / "images/incoming"
    with trickling_registry() as registry:
        argv = [sys.executable, "-c", PULLER, data_dir, registry.image]
        with subprocess.Popen(argv, cwd=ROOT) as worker:
            assert registry.begun.wait(60)
            assert executor.reap_orphans() == 0
            assert len(list(incoming.iterdir())) == 1
            worker.kill()
    (data_dir / "images/references/draft.new").touch()
    assert executor.reap_orphans() == 2
    assert list(incoming.iterdir()) == []
    assert executor.reap_orphans() == 0


def test_an_image_that_came_too_late_is_asked_for_only_once_where_the_host_steps_in(
    data_dir: Path,
) -> None:
    executor = sandbox_executor(data_dir, host_fallback=True)
    with trickling_registry() as registry:
        step, sink = Step(image=registry.image, script="true"), Recorder()
        with executor.open(job_of(step), 1) as workspace:
            workspace.prepare(step, sink, 0.2)
            assert workspace.run_step(step, sink, 60.0).succeeded
    assert b"the pull took longer than 0.2 seconds" in sink.stderr
    assert MISSING not in sink.stderr.decode()
