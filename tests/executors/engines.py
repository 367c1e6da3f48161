"""A Docker Engine of a test's own, which it may stop and kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from executors.docker.executor import DockerExecutor
from executors.errors import ExecutorUnavailable
from executors.settings import DockerSettings
from tests.conftest import unavailable
from tests.executors.sandboxes import eventually
from tests.images import busybox

IMAGE = busybox.TAGS[0]


class OwnEngine:
    """dockerd in a network namespace of its own: one without a bridge removes `docker0`, whosever
    it is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.settings = DockerSettings(host=f"unix://{directory}/docker.sock", min_free_disk=0)
        self.executor = DockerExecutor(self.settings, "tests")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false"]
        argv += ["--host", self.settings.host]
        paths = {"data-root": "data", "exec-root": "run", "pidfile": "docker.pid"}
        for option, name in paths.items():
            argv += [f"--{option}", str(self.directory / name)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        if not eventually(self._answers, 60.0):
            self.end()
            unavailable("a second dockerd does not start here")

    def load_image(self) -> str:
        archive = busybox.write_archive(self.directory / "busybox.tar")
        with archive.open("rb") as file:
            self.executor.client.api.load_image(file)
        return IMAGE

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait(30)
            assert eventually(self._containerd_has_ended)

    def end(self) -> None:
        """With its containers."""
        assert self.process
        self.executor.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(60)
        self._unmount()  # after a kill the next one does not know that the mount is its own

    def _unmount(self) -> None:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in reversed(mounts):
            if path.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", path], check=False)

    def _answers(self) -> bool:
        with suppress(ExecutorUnavailable):
            self.executor.check()
            return True
        return False

    def _containerd_has_ended(self) -> bool:
        pid = int((self.directory / "run/containerd/containerd.pid").read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True


@contextmanager
def own_engine(directory: Path | None = None) -> Iterator[OwnEngine]:
    """In a short directory: its sockets' names have little room."""
    if not (os.geteuid() == 0 and shutil.which("dockerd") and shutil.which("unshare")):
        unavailable("only root can start a dockerd of its own, where it is installed")
    with TemporaryDirectory(prefix="hades-engine-", ignore_cleanup_errors=True) as name:
        engine = OwnEngine(directory or Path(name))
        engine.start()
        try:
            yield engine
        finally:
            engine.end()
