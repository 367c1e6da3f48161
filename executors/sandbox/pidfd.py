"""Processes by handles that never come to mean another one."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from pathlib import Path


def ended(pidfd: int, patience: float = 0.0) -> bool:
    """Whether the process has ended, waiting up to `patience` seconds for it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))


def send_kill(pidfd: int) -> None:
    """SIGKILL; one that has ended is no error."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def open_child(pid: int, parent: int) -> int | None:
    """A handle for `pid`; None when it has ended, or is by now no child of `parent`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if _parent_of(pid) != parent:
        os.close(pidfd)
        return None
    return pidfd


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(b")")[2].split()[1])


def kill_labelled(label: str, uid: int) -> None:
    """End the processes of this user whose `argv[0]` is `label`, and wait until they have.

    Raises TimeoutError when one does not.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                _kill_if_labelled(entry, label, uid)


def _kill_if_labelled(process: Path, label: str, uid: int) -> None:
    pidfd = os.pidfd_open(int(process.name))
    try:
        argv = (process / "cmdline").read_bytes().split(b"\0")
        if argv[0] == label.encode() and process.stat().st_uid == uid:
            send_kill(pidfd)
            if not ended(pidfd, 30.0):
                raise TimeoutError(f"process {process.name} does not end")
    finally:
        os.close(pidfd)
