"""One program of the house as a real process, and what it prints."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from app.launch import ROOT
from brokers.embedded import die_with_parent

HADES = (sys.executable, str(ROOT / "app" / "launch.py"))
READY_SECONDS = 60.0
STOP_SECONDS = 60.0


def base_environment() -> dict[str, str]:
    """What every program gets: nothing of ours that a developer may have set."""
    kept = ("HOME", "LANG", "TMPDIR", "DOCKER_HOST")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PATH": path}


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Process:
    """`hades ARGUMENTS`, or another program, running from now on; its output is kept."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        directory: Path,
        environment: Mapping[str, str],
        program: Sequence[str] = HADES,
    ) -> None:
        """`directory` is where it starts: without a `.env`."""
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._over = False
        self._popen = subprocess.Popen(
            (*program, *arguments),
            cwd=directory,
            env={**base_environment(), "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )
        self._reader = threading.Thread(target=self._read, name=name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self._note(line.rstrip("\n"))
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _note(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        """Of the process that was started, not of those that it has started."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def await_line(self, part: str) -> None:
        """Until it has printed a line that contains `part`."""

        def said() -> bool:
            return self._over or any(part in line for line in self.lines)

        with self._changed:
            self._changed.wait_for(said, READY_SECONDS)
            assert any(part in line for line in self.lines), self._no(f"{part!r} was never said")

    def await_answer(self, url: str) -> None:
        """Until `url` answers with success."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.alive:
            try:
                if httpx.get(url, timeout=5.0).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(self._no(f"{url} was never answered"))

    def _no(self, what: str) -> str:
        return "\n".join((f"{self.name}: {what}", *self.lines[-40:]))

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself or after `terminate`."""
        code = self._popen.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        return code

    def stop(self) -> None:
        """End it, by force if need be. No-op when it has ended."""
        self._popen.terminate()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(STOP_SECONDS)

    def kill(self) -> None:
        """As a machine that loses its power: the process and its children, all at once."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """To the process and its children, all at once."""
        for pid in (self.pid, *self.children()):
            os.kill(pid, number)

    def children(self) -> list[int]:
        """The processes that it has started itself and that live."""
        return [pid for pid, parent in parents() if parent == self.pid]


def parents() -> list[tuple[int, int]]:
    """Each process of this machine, and its parent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        stat = read_or_empty(entry / "stat").rpartition(b")")[2].split()
        if stat:
            found.append((int(entry.name), int(stat[1])))
    return found


def read_or_empty(path: Path) -> bytes:
    """A file of /proc; empty when its process is gone or not ours to look at."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Looks again and again; fails with `what` when it never comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)
