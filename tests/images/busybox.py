"""Makes a tiny image with a POSIX shell and no bash, without an Engine and without being root.

The one program in it is Debian's statically linked busybox: the machine's own, else fetched with
apt. `python -m tests.images.busybox FILE` writes the archive that `docker load` and
`hades images load` take.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.images.archive import write_image

TAGS = ("hades-test/busybox:latest", "alpine:latest")
PACKAGE = "busybox-static"

_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755}


def write_archive(path: Path, tags: Iterable[str] = TAGS) -> Path:
    """Write the archive to `path`; the image has `tags`, its command is `/bin/sh`."""
    with tempfile.TemporaryDirectory() as scratch:
        layer = Path(scratch, "layer.tar")
        program = Path(scratch, "busybox")
        program.write_bytes(static_busybox())
        program.chmod(0o755)
        _write_layer(layer, program)
        return write_image(path, layer, tags=tags, cmd=["/bin/sh"])


def _write_layer(path: Path, program: Path) -> None:
    applets = subprocess.check_output([program, "--list"], text=True).split()
    with tarfile.open(path, "w") as tar:
        for name, mode in _DIRECTORIES.items():
            _add(tar, name, type=tarfile.DIRTYPE, mode=mode)
        _add(tar, "bin/busybox", program.read_bytes(), mode=0o755)
        for applet in sorted({"sh", *applets} - {"bash", "busybox"}):
            _add(tar, f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox", mode=0o777)
        for name, text in _FILES.items():
            _add(tar, name, text.encode(), mode=0o644)


def _add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


@cache
def static_busybox() -> bytes:
    """The machine's busybox if it needs no library, else the one of Debian's package."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if _is_static(path):
            return path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        fetch = ["apt-get", "download", PACKAGE]
        subprocess.run(fetch, cwd=scratch, check=True, capture_output=True)
        [package] = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, f"{scratch}/package"], check=True)
        found = Path(scratch, "package").rglob("busybox")
        return next(path.read_bytes() for path in found if _is_static(path))


def _is_static(path: Path) -> bool:
    """Whether it is an ELF program that asks for no interpreter."""
    head = path.read_bytes()[:4096] if path.is_file() else b""
    return head.startswith(b"\x7fELF") and b"ld-linux" not in head


if __name__ == "__main__":
    print(write_archive(Path(sys.argv[1])))
