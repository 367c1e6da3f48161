import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from app.commands import Command
from app.supervisor import ChildFailed, Program, Supervisor

ROOT = Path(__file__).resolve().parents[2]
Lines = SimpleQueue[tuple[str, str]]


@pytest.fixture
def lines() -> Lines:
    return SimpleQueue()


@pytest.fixture
def children(lines: Lines) -> Iterator[Supervisor]:
    with Supervisor(lambda name, line: lines.put((name, line))) as supervisor:
        yield supervisor


def program(name: str, script: str, **how: object) -> Program:
    command = Command(argv=("/bin/sh", "-c", script), env={})
    return Program(name=name, command=command, **how)  # type: ignore[arg-type]


def await_gone(pid: int) -> None:
    """Wait until a process, which may be nobody's child any more, is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor):
        assert select.select([descriptor], [], [], 30)[0], "it is still there"


def test_a_program_is_ready_when_it_prints_its_line(children: Supervisor, lines: Lines) -> None:
    children.start(program("talker", "echo I am ready now; exec sleep 60", ready_line="ready"))

    children.await_ready(30)

    assert lines.get(timeout=30) == ("talker", "I am ready now")


def test_a_program_is_ready_when_its_call_returns(children: Supervisor) -> None:
    children.start(program("server", "exec sleep 60", await_answer=lambda: None))

    children.await_ready(30)


def test_both_outputs_of_a_program_are_read(children: Supervisor, lines: Lines) -> None:
    children.start(program("p", "echo out; echo err >&2; exec sleep 60", ready_line="err"))

    children.await_ready(30)

    assert [lines.get(timeout=30)[1] for _ in range(2)] == ["out", "err"]


def test_a_program_that_ends_too_early_is_named_with_its_exit_code(children: Supervisor) -> None:
    children.start(program("good", "exec sleep 60", await_answer=lambda: None))
    children.start(program("bad", "exit 3", ready_line="never"))

    with pytest.raises(ChildFailed, match="bad ended with exit code 3, unexpectedly") as failed:
        children.await_ready(30)

    assert failed.value.names == ("bad",)


def test_a_program_that_a_signal_ends_is_named_with_the_signal(children: Supervisor) -> None:
    children.start(program("bad", "kill -9 $$"))

    with pytest.raises(ChildFailed, match="bad was ended by SIGKILL"):
        children.next_event(timeout=30)


def test_programs_that_do_not_get_ready_in_time_are_named(children: Supervisor) -> None:
    children.start(program("slow", "exec sleep 60", ready_line="never"))

    with pytest.raises(ChildFailed, match="not ready after 0 s: slow"):
        children.await_ready(0)


def test_posted_events_come_out_in_order(children: Supervisor) -> None:
    children.post("one")
    children.post("two")

    assert [children.next_event(), children.next_event()] == ["one", "two"]


def test_the_last_to_start_is_the_first_to_end(children: Supervisor, lines: Lines) -> None:
    for name in ("first", "second"):
        script = "trap 'echo bye; exit' TERM; echo hi; while :; do sleep 0.05; done"
        children.start(program(name, script, ready_line="hi"))
    children.await_ready(30)

    children.stop()

    said = [lines.get(timeout=30) for _ in range(4)]
    assert [name for name, line in said if line == "bye"] == ["second", "first"]


def test_what_a_program_started_ends_with_it(children: Supervisor, lines: Lines) -> None:
    children.start(program("parent", "sleep 60 & echo $!; wait", ready_line=""))
    _, pid = lines.get(timeout=30)

    children.stop()

    await_gone(int(pid))


def test_an_output_that_nobody_reads_does_not_block_a_program() -> None:
    def broken(name: str, line: str) -> None:
        raise BrokenPipeError

    with Supervisor(broken) as children:
        children.start(program("p", "seq 20000; echo ready; exec sleep 60", ready_line="ready"))

        children.await_ready(30)


OWNER = """
import sys
from app.commands import Command
from app.supervisor import Program, Supervisor

with Supervisor(lambda name, line: print(line, flush=True)) as children:
    command = Command(argv=("/bin/sh", "-c", "echo $$; exec sleep 60"), env={})
    children.start(Program(name="child", command=command))
    sys.stdin.read()
"""


def test_children_do_not_outlive_an_owner_that_is_killed() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())

        owner.send_signal(signal.SIGKILL)

        await_gone(pid)
