"""Starts bwrap, with nothing of the worker's about it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executors.errors import StepRefused
from executors.resources import failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What to start, and as whom."""

    program: Path
    """bwrap."""
    label: str
    """What the machine's process list calls it."""
    options: tuple[str, ...]
    """Kept out of the process list: there are secrets among them."""
    command: tuple[str, ...]
    run_as: int | None
    """Uid and gid; None: those of the worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spawned:
    """A bwrap that runs, and our ends of what connects it; file descriptors, all."""

    process: subprocess.Popen[bytes]
    monitor: int
    """A handle of the process: readable when it has ended."""
    status: int
    """Where bwrap writes a line of JSON when it has made the namespaces, and at the end."""
    gate: int
    """The command waits for a byte here."""
    stdout: int
    stderr: int


@contextmanager
def spawn(launch: Launch) -> Iterator[Spawned]:
    """Closes our ends when the block is left; to end the process is the caller's business.

    Must be entered by the thread that stays: bwrap dies with it. Raises InfrastructureError,
    and StepRefused when the command is too long.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        status, status_end = pipe(ours, theirs)
        gate_end, gate = pipe(theirs, ours)
        options = _file_of(launch.options, theirs)
        process = _popen(launch, status_end, gate_end, options)
        assert process.stdout and process.stderr
        ours.enter_context(process.stdout)
        ours.enter_context(process.stderr)
        theirs.close()
        yield Spawned(
            process=process,
            monitor=owned(os.pidfd_open(process.pid), ours),
            status=status,
            gate=gate,
            stdout=process.stdout.fileno(),
            stderr=process.stderr.fileno(),
        )


def identity(run_as: int | None) -> dict[str, Any]:
    """The arguments of Popen that start a program as this uid and gid, without other groups."""
    return {} if run_as is None else {"user": run_as, "group": run_as, "extra_groups": []}


def _popen(launch: Launch, status: int, gate: int, options: int) -> subprocess.Popen[bytes]:
    """Not the worker's environment: init's can be read in the sandbox. Nor the job's: it would
    rule the dynamic linker outside of it. Not the worker's session: Ctrl-C is meant for that.
    """
    files = {"--json-status-fd": status, "--block-fd": gate, "--args": options}
    words = [word for name, fd in files.items() for word in (name, str(fd))]
    try:
        return subprocess.Popen(
            [launch.label, *words, "--", *launch.command],
            executable=launch.program,
            pass_fds=tuple(files.values()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env={},
            umask=0o022,
            start_new_session=True,
            **identity(launch.run_as),
        )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise StepRefused("its script or command is too long") from error
        raise failure("starting bwrap", error) from error


def pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """The ends of a new pipe; each is closed with its stack."""
    read, write = os.pipe()
    return owned(read, reader), owned(write, writer)


def owned(fd: int, owner: ExitStack) -> int:
    owner.callback(os.close, fd)
    return fd


def _file_of(words: tuple[str, ...], owner: ExitStack) -> int:
    """A file in memory with these words, each ended by a NUL, at its beginning."""
    fd = owned(os.memfd_create("options"), owner)
    with open(fd, "wb", closefd=False) as file:
        file.writelines(os.fsencode(word) + b"\0" for word in words)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
