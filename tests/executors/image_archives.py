"""Makes the layers and archives of images that the tests unpack; nothing of them is in the tree."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: Any) -> Entry:
    """Any entry of a tar: `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.uid = info.gid = 12345
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def file(name: str, data: bytes = b"", mode: int = 0o644, **fields: Any) -> Entry:
    return entry(name, data, mode=mode, **fields)


def directory(name: str, mode: int = 0o755) -> Entry:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def whiteout(name: str) -> Entry:
    """Hides a name of lower layers: `a/b` becomes `a/.wh.b`."""
    head, _, tail = name.rpartition("/")
    return file(f"{head}/.wh.{tail}" if head else f".wh.{tail}")


def layer(*entries: Entry) -> bytes:
    """The bytes of a tar with these entries, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: list[bytes], **settings: Any) -> bytes:
    """An image's config; `layers` decompressed, `settings` as Entrypoint, Env."""
    return json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        }
    ).encode()


def tar_of(files: dict[str, bytes]) -> bytes:
    return layer(*(file(name, data) for name, data in files.items()))


def docker_save(tags: list[str] | None, layers: list[bytes], **settings: Any) -> dict[str, bytes]:
    """The files of a `docker save` archive with one image."""
    about = config(layers, **settings)
    name = f"{digest(about)[7:]}.json"
    names = [f"{index}/layer.tar" for index in range(len(layers))]
    listing = [{"Config": name, "RepoTags": tags, "Layers": names}]
    return {
        **dict(zip(names, layers, strict=True)),
        name: about,
        "manifest.json": json.dumps(listing).encode(),
    }


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def manifest(about: bytes, blobs: list[bytes]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, about),
            "layers": [descriptor(LAYER, blob) for blob in blobs],
        }
    ).encode()


def index(*descriptors: dict[str, Any]) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(descriptors)}
    ).encode()


def oci_layout(
    name: str, layers: list[bytes], blobs: list[bytes] | None = None
) -> dict[str, bytes]:
    """The files of an OCI layout with one image; `blobs`: its layers as stored."""
    blobs = layers if blobs is None else blobs
    about = config(layers)
    document = manifest(about, blobs)
    named = {"org.opencontainers.image.ref.name": name}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": index(descriptor(MANIFEST, document, annotations=named)),
        **{blob_path(data): data for data in (about, document, *blobs)},
    }


def blob_path(data: bytes) -> str:
    return f"blobs/{digest(data).replace(':', '/')}"


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    """The same files as a directory."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
