"""How many processes and threads a sandbox may have, held by the kernel without a cgroup.

Since Linux 5.14 RLIMIT_NPROC counts within a user namespace, if it is set by a process in there or,
as here, on one: each sandbox is counted by itself.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from contextlib import suppress

from executors.errors import LimitUnsupported
from executors.sandbox.spawn import identity

DEFAULT_PIDS = 4096
"""Of a step that sets no limit: enough for builds, too few for a fork bomb to take the machine."""
MAX_PIDS = 2**22
"""No kernel has more."""
KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def limit_pids(pid: int, asked: int, run_as: int | None) -> None:
    """Let the sandbox that this process waits in have as many as `asked`, or as many as is usual.

    Raises LimitUnsupported when what was asked for can't be held.
    """
    most = min(asked or DEFAULT_PIDS, MAX_PIDS) + 1  # bwrap itself is in there too
    if not (KERNEL >= (5, 14) and (_limit(pid, most) or _limit_as(pid, most, run_as))) and asked:
        raise LimitUnsupported("pids_limit", "it takes Linux 5.14 and prlimit to hold it")


def _limit(pid: int, most: int) -> bool:
    """False when we may not; root may only with CAP_SYS_RESOURCE, which it has in no container."""
    with suppress(ProcessLookupError):
        try:
            resource.prlimit(pid, resource.RLIMIT_NPROC, (most, most))
        except PermissionError:
            return False
    return True


def _limit_as(pid: int, most: int, run_as: int | None) -> bool:
    """The same by a program that runs as the steps' user, who may."""
    program = shutil.which("prlimit")
    if program is None:
        return False
    done = subprocess.run(
        [program, f"--pid={pid}", f"--nproc={most}:{most}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        check=False,
        **identity(run_as),
    )
    return bool(done.returncode == 0)
