"""The host's own userland, read-only, in the place of an image that can't be had.

Of the host's files only programs and libraries are there, and what they can't do without in
`/etc`: no accounts, no keys; `/home`, `/root` and `/var` are empty.
"""

from __future__ import annotations

from pathlib import Path

from executors.sandbox.convert import overlay
from executors.sandbox.skeleton import write_skeleton

DIRECTORIES = ("home", "root", "run", "var", "var/tmp")
FILES = {
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
}
_ETC = ("alternatives", "java-*-openjdk", "ld.so.cache", "ssl/certs", "ssl/openssl.cnf")
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


def host_root(layer: Path, owner: int | None, host: Path = Path("/")) -> tuple[str, ...]:
    """bwrap's options for the root; `layer` is made for it. `host` is where the userland is."""
    write_skeleton(layer, owner, DIRECTORIES, FILES)
    return (*overlay(layer), *_programs(host), *_configuration(host))


def _programs(host: Path) -> tuple[str, ...]:
    options = ["--ro-bind", str(host / "usr"), "/usr"]
    for name in _MERGED:
        path = host / name
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            options += ["--ro-bind", str(path), f"/{name}"]
    return tuple(options)


def _configuration(host: Path) -> tuple[str, ...]:
    options: list[str] = []
    for pattern in _ETC:
        for path in sorted((host / "etc").glob(pattern)):
            options += ["--ro-bind", str(path), f"/{path.relative_to(host)}"]
    return tuple(options)
