"""Makes an image with bash, Python, pytest and git from Debian's packages. Needs root.

debootstrap takes them from the mirror that apt is set up with on this machine.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.images.archive import write_image

TAGS = (
    "hades-test/debian:latest",
    "hades-test/grading:latest",
    "ubuntu:latest",
    "python:3.9-alpine",
)
PACKAGES = ("python3", "python3-pytest", "git", "ca-certificates")
UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man")
"""Emptied to keep the image small."""


def write_archive(path: Path, tags: Iterable[str] = TAGS) -> Path:
    """Write the archive to `path`; the image has `tags`, its command is `bash`."""
    with tempfile.TemporaryDirectory() as scratch:
        root, layer = Path(scratch, "root"), Path(scratch, "layer.tar")
        _bootstrap(root)
        subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", layer, "."], check=True)
        return write_image(path, layer, tags=tags, cmd=["bash"])


def _bootstrap(root: Path) -> None:
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    done = subprocess.run(
        [*argv, release, root, mirror(release)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"debootstrap failed:\n{done.stdout[-2000:]}")
    for name in UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()


def mirror(release: str) -> str:
    """The address apt takes `release` from, as its own configuration says."""
    argv = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    for line in subprocess.check_output(argv, text=True).splitlines():
        name, _, address = line.partition(" ")
        if name == release:
            return address
    raise RuntimeError(f"apt is not set up with a mirror of {release}")
