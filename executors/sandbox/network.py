"""A network of a sandbox's own, in user mode: slirp4netns answers as its gateway and name server.

The host's loopback is 10.0.2.2 in there, if it is to be reached at all; other machines, and the
host's other addresses, are reached as they are from the host.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

from executors.errors import InfrastructureError, LimitUnsupported
from executors.sandbox.spawn import identity, owned, pipe

TUN = Path("/dev/net/tun")
PATIENCE = 30.0
"""Seconds that slirp4netns may take to bring the network up."""
TICK = 0.2
NS_GET_USERNS = 0xB701
"""ioctl: which user namespace a namespace belongs to; from linux/nsfs.h."""


def require_network() -> str:
    """The path of slirp4netns. Raises LimitUnsupported when this machine can't have a network."""
    program = shutil.which("slirp4netns")
    if program is None:
        raise LimitUnsupported("network", "slirp4netns is not installed, so there is only none")
    if not os.access(TUN, os.R_OK | os.W_OK):
        raise LimitUnsupported("network", f"{TUN} can't be opened, so there is only none")
    return program


@contextmanager
def user_network(pid: int, *, run_as: int | None, host_loopback: bool) -> Iterator[None]:
    """The network of the sandbox that this process waits in is up while the block lasts.

    Raises InfrastructureError, LimitUnsupported.
    """
    program = require_network()
    with ExitStack() as ours, ExitStack() as theirs:
        ready, ready_end = pipe(ours, theirs)
        exit_end, _ = pipe(theirs, ours)  # slirp4netns ends when ours is closed, by whatever
        network, users = _namespaces(pid, theirs)
        options = [
            *("--configure", "--mtu=65520", "--enable-sandbox", "--enable-seccomp"),
            *(() if host_loopback else ("--disable-host-loopback",)),
            *(f"--ready-fd={ready_end}", f"--exit-fd={exit_end}"),
            *("--netns-type=path", f"--userns-path=/proc/self/fd/{users}"),
            *(f"/proc/self/fd/{network}", "tap0"),
        ]
        process = ours.enter_context(
            subprocess.Popen(
                ["slirp4netns", *options],
                executable=program,
                pass_fds=(ready_end, exit_end, network, users),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env={},
                start_new_session=True,
                restore_signals=False,  # it may complain long after we have stopped to listen
                **identity(_who(run_as)),
            )
        )
        ours.callback(process.kill)
        theirs.close()
        _wait_until_up(process, ready)
        yield


def _namespaces(pid: int, owner: ExitStack) -> tuple[int, int]:
    """The process's network namespace, and the user namespace that rules it; open files both."""
    try:
        network = owned(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC), owner)
        return network, owned(fcntl.ioctl(network, NS_GET_USERNS), owner)
    except OSError as error:
        raise InfrastructureError(f"the sandbox has no network to be found: {error}") from error


def _who(run_as: int | None) -> int | None:
    """The steps' user, unless only root may make network devices here."""
    return run_as if TUN.stat().st_mode & 0o006 == 0o006 else None


def _wait_until_up(process: subprocess.Popen[bytes], ready: int) -> None:
    """Raises InfrastructureError, with the words of slirp4netns."""
    assert process.stderr
    give_up = monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector, process.stderr:
        selector.register(ready, selectors.EVENT_READ)
        while not selector.select(TICK):
            if monotonic() > give_up:
                raise InfrastructureError(f"slirp4netns was not ready after {PATIENCE:.0f} s")
        if not os.read(ready, 1):
            words = process.stderr.read().decode(errors="replace")
            raise InfrastructureError(f"slirp4netns failed: {' '.join(words.split())}")
