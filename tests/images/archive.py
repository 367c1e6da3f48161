"""Writes an image of one layer as an archive that `docker load` and `hades images load` take."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_image(path: Path, layer: Path, *, tags: Iterable[str], cmd: list[str]) -> Path:
    """`layer` is an uncompressed tar of the image's whole file system."""
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Env": [PATH], "Cmd": cmd},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "tests/images"}],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    listing = [{"Config": name, "RepoTags": list(tags), "Layers": [f"{digest}/layer.tar"]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        tar.add(layer, f"{digest}/layer.tar")
        _add(tar, name, config)
        _add(tar, "manifest.json", json.dumps(listing).encode())
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
