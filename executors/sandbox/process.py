"""One sandbox: started blocked, released, listened to, and gone when its block is left.

    with Sandbox(launch) as sandbox:        bwrap runs, and waits with the command
        sandbox.limit_processes(...)        what has to be there before the command
        sandbox.release()
        sandbox.pump(sink)                  until it has ended, with all it started
    sandbox.ending()                        how

bwrap is two processes here: the *monitor*, our child, and its child *init*, the first process in the
sandbox's own pid namespace. When init dies, the kernel kills all others in there before anybody is
told: who waits for init has waited for them all.
"""

from __future__ import annotations

import json
import os
import resource
import select
import selectors
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from executors.base import OutputStream, Sink
from executors.errors import InfrastructureError, StepRefused
from executors.sandbox.errors import setup_failed

CHUNK = 64 * 1024
TICK = 0.2
"""Seconds between two looks at whether the thread was interrupted: it is deaf while it waits."""
START_PATIENCE = 30.0
"""Seconds that bwrap may take until it has made the namespaces."""
KILL_PATIENCE = 30.0
"""Seconds after which a sandbox that does not die is the machine's failure."""
LAST_WORDS = 4096
"""Bytes of stderr that are kept, for what bwrap itself may say."""


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
class Ending:
    """How a sandbox ended."""

    exit_code: int | None
    """The command's; None when there was none, since bwrap gave up or was killed."""
    killed: bool
    """By us, while it was still running."""
    words: str
    """The last of its stderr."""


class Sandbox:
    """For one thread, but for `kill`, which any may call at any time."""

    def __init__(self, launch: Launch) -> None:
        """Nothing is started before the block is entered."""
        self._launch = launch
        self._files = ExitStack()
        self._lock = threading.Lock()
        self._init: int | None = None
        self._status = b""
        self._killed = False
        self._words = b""
        self.pid = 0
        """Of init, as the host counts; valid until the sandbox has ended."""

    def __enter__(self) -> Sandbox:
        """Raises InfrastructureError, StepRefused when the command is too long."""
        try:
            self._start()
            self._attach()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def limit_processes(self, most: int) -> None:
        """How many processes and threads the command may have at a time. Call before `release`."""
        most += 1  # init counts too
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_NPROC, (most, most))

    def release(self) -> None:
        """Let the command begin."""
        with suppress(BrokenPipeError):  # it has failed, or was killed
            os.write(self._gate, b"\n")

    def pump(self, sink: Sink) -> None:
        """Hand on both outputs until they have ended and so has the sandbox."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ, OutputStream.STDOUT)
            selector.register(self._stderr, selectors.EVENT_READ, OutputStream.STDERR)
            selector.register(self._monitor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(TICK):
                    if key.data is None:  # the command has ended: so must what it left behind
                        self._signal_init()
                        selector.unregister(key.fd)
                    elif not self._copy(key.fd, key.data, sink):
                        selector.unregister(key.fd)

    def kill(self) -> bool:
        """Begin the end of all processes; False when the command had ended before."""
        with self._lock:
            if self._files_closed or _ended(self._monitor, 0):
                return False
            self._killed = True
            if self._init is not None:
                _send_kill(self._init)
            return True

    def ending(self) -> Ending:
        """Call it after the block."""
        codes = [report["exit-code"] for report in self._reports() if "exit-code" in report]
        return Ending(
            exit_code=codes[0] if codes else None,
            killed=self._killed,
            words=self._words.decode(errors="replace"),
        )

    # --- the beginning

    def _start(self) -> None:
        """Raises InfrastructureError, StepRefused."""
        status, status_w = self._pipe()
        gate_r, self._gate = self._pipe()
        options = self._options_file()
        ours, theirs = (self._pipe() for _ in range(2)), (status_w, gate_r, options)
        (self._stdout, stdout_w), (self._stderr, stderr_w) = ours
        ...
