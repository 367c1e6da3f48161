"""The `sandbox` executor: each step a process tree in namespaces of its own, and no daemon."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from executors.base import Executor, Workspace
from executors.errors import (
    ExecutorUnavailable,
    HadesError,
    LimitUnsupported,
)
from executors.job import Job
from executors.resources import require_free
from executors.sandbox.chroot import in_chroot, make_root
from executors.sandbox.errors import machine_errors, unavailable
from executors.sandbox.images import ImageStore
from executors.sandbox.network import require_network
from executors.sandbox.pidfd import kill_labelled
from executors.sandbox.program import closed_part, executable_by, find_bwrap, make_passable
from executors.sandbox.removal import remove_attempt
from executors.sandbox.workspace import Machine, SandboxWorkspace, label_of, try_out
from executors.sandbox.workspaces import Workspaces
from executors.settings import SandboxSettings


class SandboxExecutor(Executor):
    """bwrap processes of this machine, for many jobs at once."""

    name = "sandbox"

    def __init__(self, settings: SandboxSettings, worker: str) -> None:
        """Nothing is made before the first job or check."""
        self.settings = settings
        self.worker = worker
        self.run_as = settings.uid if os.geteuid() == 0 else None
        self.data_dir = settings.data_dir.absolute()
        self.images = ImageStore(self.data_dir / "images", owner=self.run_as)
        self.workspaces = Workspaces(self.data_dir / "workspaces", self.run_as)
        self._lock = threading.Lock()
        self._machine: Machine | None = None
        self._rooted = False

    @property
    def machine(self) -> Machine:
        """What all workspaces share; looked up once. Raises OSError, ExecutorUnavailable."""
        with self._lock:
            if self._machine is None:
                self._machine = Machine(
                    settings=self.settings,
                    images=self.images,
                    program=self._bwrap(),
                    run_as=self.run_as,
                )
            return self._machine

    def check(self) -> None:
        """Looks at the disk, and runs `true` in a sandbox on the host's userland.

        In a chroot, and as root, the first one makes that a root of its own: for the calling thread
        and those that it starts later.
        """
        try:
            self._leave_chroot()
            require_free(self.data_dir, self.settings.min_free_disk)
            self._check_access()
            with self.workspaces.create(f"check-{secrets.token_hex(8)}", 0) as home:
                try_out(self.machine, home)
            self._check_network()
        except ExecutorUnavailable:
            raise
        except (HadesError, OSError) as error:
            raise unavailable(str(error)) from error

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        """One directory; it goes when the block is left."""
        self.reap(job.id)
        with ExitStack() as stack:
            with machine_errors("making a workspace"):
                machine = self.machine
                home = stack.enter_context(self.workspaces.create(job.id, attempt))
            yield SandboxWorkspace(machine, job, home)

    def reap(self, job_id: str) -> None:
        """Also what is left by other workers with the same data directory, and what still runs."""
        with machine_errors("removing what earlier attempts left"):
            for directory in self.workspaces.of_job(job_id):
                self._end_processes(directory)
                remove_attempt(directory)

    def reap_orphans(self) -> int:
        """What no living process has locked: workspaces, half-made images."""
        with machine_errors("removing what dead workers left"):
            gone = self.workspaces.remove_orphans(self._end_processes)
            return gone + self.images.remove_orphans()

    def _end_processes(self, directory: Path) -> None:
        """Of an attempt. Raises TimeoutError."""
        uid = os.geteuid() if self.run_as is None else self.run_as
        kill_labelled(label_of(directory), uid)

    def _leave_chroot(self) -> None:
        with self._lock:
            if not self._rooted and os.geteuid() == 0 and in_chroot():
                make_root()
            self._rooted = True

    def _bwrap(self) -> Path:
        """One that the steps' user can execute. Raises OSError, ExecutorUnavailable."""
        program = find_bwrap()
        if self.run_as is None:
            return program
        return executable_by(self.run_as, program, self.data_dir / "bin")

    def _check_access(self) -> None:
        """Raises ExecutorUnavailable when the steps' user can't get at its files; OSError."""
        if self.run_as is None:
            return
        if self.run_as == 0:
            raise ExecutorUnavailable("HADES_SANDBOX_UID must not be 0: steps never run as root")
        for directory in (self.workspaces.root, self.data_dir / "images"):
            make_passable(directory)
            closed = closed_part(self.run_as, directory)
            if closed is not None:
                raise ExecutorUnavailable(
                    f"{closed} is closed to uid {self.run_as}, as which steps run: "
                    "set HADES_DATA_DIR to a directory that it can reach, like /var/lib/hades"
                )

    def _check_network(self) -> None:
        """Raises ExecutorUnavailable when the network that steps get by default can't be had."""
        if self.settings.network != "none":
            try:
                require_network()
            except LimitUnsupported as error:
                raise ExecutorUnavailable(f"HADES_SANDBOX_NETWORK is in vain: {error}") from error
