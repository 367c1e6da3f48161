"""Which process made a thing in the Engine, and whether that process is surely dead.

A pid says little by itself: it is used again, it means another process in another pid namespace
(container), after another boot, on another host. So a thing's label names all of these, and where
one of them can't be judged from here, its owner counts as alive: on an Engine that workers of
several hosts or containers share, what dead ones left waits for a worker that can tell, or for its
job's next attempt.
"""

from __future__ import annotations

import os
import socket
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

_ENDED = ("Z", "X", "x")
"""States of a process that has died and only waits for its parent to notice."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process. What could not be read is empty."""

    host: str
    """Digest of the machine's id and the host's name."""
    boot: str
    """Id of the kernel's run."""
    namespace: str
    """The pid namespace in which `pid` counts."""
    pid: str
    started: str
    """In clock ticks since the boot."""

    def __str__(self) -> str:
        return "/".join(astuple(self))

    @classmethod
    def parse(cls, label: str) -> Owner | None:
        """None for what is no label of ours."""
        parts = label.split("/")
        return cls(*parts) if len(parts) == len(cls.__slots__) else None

    @classmethod
    def current(cls) -> Owner:
        """This process. Not to be kept: a fork is another one."""
        pid = str(os.getpid())
        machine = _read("/etc/machine-id")
        return cls(
            host=_digest(f"{machine} {socket.gethostname()}") if machine else "",
            boot=_read("/proc/sys/kernel/random/boot_id"),
            namespace=_link("/proc/self/ns/pid"),
            pid=pid,
            started=_started(pid),
        )

    @property
    def surely_dead(self) -> bool:
        """False also when it can't be told from here."""
        here = Owner.current()
        if not self.boot or not here.boot:
            return False
        if self.boot != here.boot:
            return bool(self.host) and self.host == here.host
        if not self.namespace or self.namespace != here.namespace or not self.pid.isdigit():
            return False
        return _started(self.pid) != self.started and not _hidden(self.pid)


def _started(pid: str) -> str:
    """Empty when there is no such process to be seen, or only what is left of a dead one."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if not fields or fields[0] in _ENDED else fields[19]


def _hidden(pid: str) -> bool:
    """Whether there is one that /proc does not show to us."""
    if _read(f"/proc/{pid}/stat"):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _digest(text: str) -> str:
    """The machine's id is not meant to be shown around."""
    return sha256(text.encode()).hexdigest()[:16]
