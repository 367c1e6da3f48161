"""Disks that are small enough to be filled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import unavailable


@contextmanager
def small_disk(size: str, files: int = 0) -> Iterator[Path]:
    """A directory whose file system is in memory, and takes that much; `files` 0: any number."""
    options = f"size={size},mode=711,nr_inodes={files}"
    with TemporaryDirectory(prefix="hades-disk-", ignore_cleanup_errors=True) as name:
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", name]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode != 0:
            unavailable(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def remount(directory: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """A file that takes all the room there is."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass
    return path
