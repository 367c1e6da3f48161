"""What a step, or an image, that means harm can't do in the `sandbox` executor."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from executors.base import StepResult
from executors.errors import ExecutorUnavailable
from executors.job import Step
from executors.sandbox.executor import SandboxExecutor
from executors.sandbox.removal import remove_attempt
from tests.conftest import unavailable
from tests.executors.contract import Recorder, job_of
from tests.executors.image_archives import directory, link
from tests.executors.sandboxes import (
    IMAGE,
    data_directory,
    load_image,
    processes_of,
    sandbox_executor,
)

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with data_directory() as path:
        yield path


@pytest.fixture(scope="module")
def executor(data_dir: Path) -> SandboxExecutor:
    executor = sandbox_executor(data_dir)
    try:
        executor.check()
    except ExecutorUnavailable as error:
        unavailable(str(error))
    return executor


def output(executor: SandboxExecutor, script: str, image: str = IMAGE) -> str:
    """All that the script writes to stdout; it must succeed."""
    step, sink = Step(image=image, script=script), Recorder()
    with executor.open(job_of(step), 1) as workspace:
        result = workspace.run_step(step, sink, 60.0)
    assert result.succeeded, (result, sink.stderr)
    return sink.stdout.decode()


# --- what a step sees and may


def test_a_step_finds_nothing_of_the_workers_environment(
    executor: SandboxExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS_SECRET", "worker-secret")
    assert "worker-secret" not in output(executor, "env; cat /proc/*/environ")


def test_secrets_of_a_step_are_not_in_the_machines_process_list(
    executor: SandboxExecutor,
) -> None:
    step = Step(image=IMAGE, script="echo begun; sleep 600", metadata={"TOKEN": "step-secret"})
    job, lines = job_of(step, metadata={"OTHER": "job-secret"}), list[str]()
    sink = Recorder(lambda: lines.extend(processes_of(job)))
    with executor.open(job, 1) as workspace:
        assert workspace.run_step(step, sink, 2.0).timed_out
    assert lines
    assert "secret" not in "".join(lines)


def test_a_step_sees_no_process_file_or_mount_of_the_host(executor: SandboxExecutor) -> None:
    assert output(executor, "cd /proc; echo [0-9]*").split() == ["1", "2"]
    assert output(executor, "ls /").split() == sorted(
        ["bin", "dev", "etc", "proc", "root", "shared", "tmp", "var"]
    )
    assert output(executor, "ls /sys /home /oldroot /newroot 2>/dev/null; true") == ""


def test_a_step_has_no_file_open_but_its_own_three(executor: SandboxExecutor) -> None:
    script = "for fd in `seq 0 99`; do test -e /proc/$$/fd/$fd && echo $fd; done; true"
    assert output(executor, script).split() == ["0", "1", "2"]


def test_a_step_has_no_capabilities_and_can_get_none(executor: SandboxExecutor) -> None:
    status = output(executor, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status").split("\n")
    assert set(status) == {
        *(f"Cap{name}:\t{'0' * 16}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs:\t1",
        "",
    }
    output(executor, "! unshare -U true && ! unshare -r true && ! mount -t tmpfs x /tmp")


def test_a_step_cannot_change_the_image_for_the_next(executor: SandboxExecutor) -> None:
    output(executor, "rm -rf /bin /etc; echo > /file")
    assert output(executor, "test ! -e /file && ls /etc/passwd") == "/etc/passwd\n"


def test_a_step_cannot_kill_or_end_the_first_process_of_its_sandbox(
    executor: SandboxExecutor,
) -> None:
    step = Step(image=IMAGE, script="kill -9 1; kill -9 -1; echo alive")
    with executor.open(job_of(step), 1) as workspace:
        result = workspace.run_step(step, Recorder(), 60.0)
    assert result.exit_code in (0, 137)


def test_a_fork_bomb_ends_with_its_step(executor: SandboxExecutor) -> None:
    step = Step(image=IMAGE, script="f() { f | f & }; f; sleep 600", pids_limit=500)
    job = job_of(step)
    with executor.open(job, 1) as workspace:
        result = workspace.run_step(step, Recorder(), 2.0)
        assert result == StepResult(exit_code=None, timed_out=True)
        assert processes_of(job) == []


# --- what an image may


def test_an_image_full_of_links_leads_nowhere(executor: SandboxExecutor, data_dir: Path) -> None:
    outside = data_dir / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    target = f"/oldroot{outside}"
    links = [link(name, f"{target}/{name}") for name in ("shared", "tmp", "proc", "dev")]
    image = load_image(executor, "links", directory("etc"), link("etc/hosts", target), *links)
    script = "echo x > /shared/x; echo x > /tmp/x; echo x >> /etc/hosts; cat /proc/self/comm"
    output(executor, script, image)
    assert list(outside.iterdir()) == []


def test_an_image_whose_etc_is_a_link_gets_an_etc(executor: SandboxExecutor) -> None:
    image = load_image(executor, "etc-link", link("etc", "/oldroot/etc"))
    assert output(executor, "ls /etc", image).split() == ["hostname", "hosts", "resolv.conf"]


# --- what a step leaves


def test_what_a_step_left_is_removed_without_following_its_links(
    executor: SandboxExecutor, data_dir: Path
) -> None:
    kept = data_dir / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    script = f"""
        ln -s {kept} link; mkdir -p closed/inner open; ln -s {kept}/file open/link
        ln -s . open/loop; mkfifo open/pipe; touch closed/inner/file
        chmod 000 closed/inner/file closed/inner closed open
    """
    step = Step(image=IMAGE, script=script)
    job = job_of(step)
    with executor.open(job, 1) as workspace:
        assert workspace.run_step(step, Recorder(), None).succeeded
    assert executor.workspaces.of_job(job.id) == []
    assert (kept / "file").read_text() == "kept"


def test_directories_nested_deeper_than_the_stack_are_removed(
    executor: SandboxExecutor,
) -> None:
    script = "deep=`yes d | head -n 1900 | tr '\\n' /`; mkdir -p $deep && touch $deep/file"
    step = Step(image=IMAGE, script=script)
    job = job_of(step)
    with executor.open(job, 1) as workspace:
        assert workspace.run_step(step, Recorder(), None).succeeded
    assert executor.workspaces.of_job(job.id) == []


def test_directories_nested_beyond_the_longest_path_are_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    inner = os.open(tree, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=inner)
        outer, inner = inner, os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    remove_attempt(tree)
    assert os.listdir(tmp_path) == []


def test_removing_twice_at_once_is_no_error(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "tree" / str(number % 7) / str(number)).mkdir(parents=True)
    start = threading.Barrier(4)

    def remove(_: int) -> None:
        start.wait()
        remove_attempt(tmp_path / "tree")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(remove, range(4)))
    assert os.listdir(tmp_path) == []
