"""One sandbox: started blocked, released, listened to, and gone when its block is left.

    with Sandbox(launch) as sandbox:        bwrap has made the namespaces and waits
        ... sandbox.pid ...                 what has to be there before the command
        sandbox.release()                   the command begins
        sandbox.pump(sink)                  until it has ended, with all it started
    sandbox.ending()                        how

bwrap is two processes here: the *monitor*, our child, and its child *init*, the first process of
the sandbox's own pid namespace. When init dies, the kernel ends all others in there before it tells
anybody: who has waited for init has waited for them all. Should the worker die, the kernel kills
the monitor and with it init.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from time import monotonic

from executors.base import OutputStream, Sink
from executors.errors import InfrastructureError
from executors.sandbox.errors import machine_errors, setup_failed
from executors.sandbox.pidfd import ended, open_child, send_kill
from executors.sandbox.spawn import Launch, Spawned, spawn

CHUNK = 64 * 1024
TICK = 0.2
"""Seconds between two chances for an exception from another thread to interrupt this one."""
START_PATIENCE = 30.0
"""Seconds that bwrap may take to make the namespaces."""
KILL_PATIENCE = 30.0
"""Seconds after which a sandbox that does not die is the machine's failure."""
LAST_WORDS = 4096
"""Bytes of stderr that are kept: at its end is what bwrap itself has to say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a sandbox ended."""

    exit_code: int | None
    """The command's; None when there was no command, because bwrap gave up or was killed."""
    killed: bool
    """By `kill`, before the command had ended."""
    words: str
    """The last of its stderr."""


class Sandbox:
    """For one thread; but `kill` may be called from any, at any time."""

    def __init__(self, launch: Launch) -> None:
        """Nothing starts before the block is entered."""
        self._launch = launch
        self._lock = threading.Lock()
        self._files = ExitStack()
        self._status = b""
        self._words = b""
        self._killed = False
        self._open = False
        self._dying_since: float | None = None
        self._init: int | None = None
        self.pid = 0
        """Of init, as the host counts. Safe to use until the command is released."""

    def __enter__(self) -> Sandbox:
        """Raises InfrastructureError, and StepRefused when the command is too long."""
        with machine_errors("starting a sandbox"):
            self._bwrap: Spawned = self._files.enter_context(spawn(self._launch))
        self._open = True
        try:
            with machine_errors("waiting for a sandbox"):
                self._attach()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Raises InfrastructureError when a process can't be killed."""
        self._close()

    @property
    def doomed(self) -> bool:
        """Whether it was killed, or has ended by itself, before the command was released."""
        return self._killed or self._init is None or ended(self._init)

    def release(self) -> None:
        """Let the command begin."""
        with suppress(BrokenPipeError):  # killed already, or bwrap has failed
            os.write(self._bwrap.gate, b"\n")

    def pump(self, sink: Sink) -> None:
        """Hand on both outputs until they have ended and all processes with them."""
        bwrap = self._bwrap
        with machine_errors("listening to a sandbox"):
            opened = selectors.DefaultSelector()
        with opened as selector:
            selector.register(bwrap.stdout, selectors.EVENT_READ, OutputStream.STDOUT)
            selector.register(bwrap.stderr, selectors.EVENT_READ, OutputStream.STDERR)
            selector.register(bwrap.monitor, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(TICK)
                for key, _ in ready:
                    if not self._advance(key, sink):
                        selector.unregister(key.fileobj)
                if not ready:
                    self._check_patience()

    def kill(self) -> bool:
        """Begin to end all processes; False when the command had ended by itself."""
        with self._lock:
            if not self._open or ended(self._bwrap.monitor):
                return False
            self._killed = True
        self._signal()
        return True

    def ending(self) -> Ending:
        """Known when the block has been left."""
        reports = [json.loads(line) for line in self._status.splitlines()]
        codes = [report["exit-code"] for report in reports if "exit-code" in report]
        return Ending(
            exit_code=codes[0] if codes else None,
            killed=self._killed,
            words=self._words.decode(errors="replace"),
        )

    def _attach(self) -> None:
        """Wait for the namespaces. Raises InfrastructureError, with the words of bwrap."""
        give_up = monotonic() + START_PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._bwrap.status, selectors.EVENT_READ)
            while b"\n" not in self._status:
                if selector.select(TICK) and not self._read_status():
                    raise setup_failed(self._rest_of_stderr())
                if monotonic() > give_up:
                    raise setup_failed(f"not ready after {START_PATIENCE:.0f} s")
        self.pid = json.loads(self._status.splitlines()[0])["child-pid"]
        init = open_child(self.pid, self._bwrap.process.pid)
        with self._lock:
            self._init = init
        if self._killed:
            self._signal()

    def _advance(self, key: selectors.SelectorKey, sink: Sink) -> bool:
        """Deal with what is ready; False when there is no more to come from it."""
        if key.data is None:  # the monitor: the command has ended, what it left behind must too
            self._signal()
            return False
        data = os.read(key.fd, CHUNK)
        if key.data is OutputStream.STDERR:
            self._words = (self._words + data)[-LAST_WORDS:]
        if data:
            sink.write(key.data, data)
        return bool(data)

    def _signal(self) -> None:
        with self._lock:
            self._dying_since = self._dying_since or monotonic()
            if self._open and self._init is not None:
                send_kill(self._init)

    def _check_patience(self) -> None:
        if self._dying_since and monotonic() - self._dying_since > KILL_PATIENCE:
            raise InfrastructureError("the processes of a step could not be killed")

    def _read_status(self) -> bool:
        data = os.read(self._bwrap.status, CHUNK)
        self._status += data
        return bool(data)

    def _rest_of_stderr(self) -> str:
        """Of a bwrap that has given up: there is an end to it."""
        with os.fdopen(os.dup(self._bwrap.stderr), "rb") as stderr:
            return stderr.read(LAST_WORDS).decode(errors="replace")

    def _close(self) -> None:
        """End and wait for everything, then let go of it."""
        self._signal()
        if self._init is None:
            self._bwrap.process.kill()
        try:
            self._wait()
            while self._read_status():
                pass
        finally:
            with self._lock:
                self._open = False
                if self._init is not None:
                    os.close(self._init)
                    self._init = None
            self._files.close()

    def _wait(self) -> None:
        try:
            while self._init is not None and not ended(self._init, TICK):
                self._check_patience()
            self._bwrap.process.wait(KILL_PATIENCE)
        except subprocess.TimeoutExpired:
            raise InfrastructureError("bwrap could not be killed") from None
