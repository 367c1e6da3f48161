"""The JSON of images, OCI's and Docker's, checked and made into ours. Every function may raise
ImageInvalid."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from executors.sandbox.blobs import ImageInvalid
from executors.sandbox.references import DIGEST

MAX_JSON = 8 * 1024 * 1024
"""Bytes of a manifest, an index or a config."""

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """What the image's author set for its containers."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str]
    user: str = ""
    """As written: empty, `name`, `uid`, `name:group` or `uid:gid`."""
    working_dir: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The digests of an image's parts."""

    config: str
    layers: tuple[str, ...]
    """Lowest first."""


def machine() -> str:
    """This machine's architecture, as images call it: `amd64`, `arm64`."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object; `what` names it in the error."""
    return _typed(_loads(data, what), dict, what)


def parse_save_list(data: bytes) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """The `manifest.json` of `docker save`: for each image its config, its names, its layers."""
    return [
        (
            _string(entry.get("Config"), "Config"),
            _strings(entry.get("RepoTags"), "RepoTags"),
            _strings(entry.get("Layers"), "Layers"),
        )
        for item in _typed(_loads(data, "manifest"), list, "manifest")
        for entry in [_typed(item, dict, "manifest")]
    ]


def _loads(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageInvalid(f"its {what} is not JSON: {error}") from error


def is_index(document: Mapping[str, Any]) -> bool:
    """Whether it lists images for several platforms. The media type inside is optional in OCI."""
    return document.get("mediaType") in INDEX_TYPES or "manifests" in document


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    """A manifest of OCI, or of Docker's version 2."""
    if document.get("schemaVersion") != 2 or "config" not in document:
        raise ImageInvalid("its manifest is of a kind that is not supported")
    layers = _typed(document.get("layers"), list, "list of layers")
    return Manifest(
        config=digest_of(document["config"]),
        layers=tuple(digest_of(layer) for layer in layers),
    )


def digest_of(descriptor: object) -> str:
    """`sha256:...`, the only kind in use."""
    digest = _typed(descriptor, dict, "descriptor").get("digest")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ImageInvalid(f"it has a digest that is not supported: {digest!r}")
    return digest


def choose(document: Mapping[str, Any]) -> str:
    """The digest of an index's manifest for this machine."""
    listed = _typed(document.get("manifests"), list, "list of manifests")
    for descriptor in listed:
        if fits(descriptor):
            return digest_of(descriptor)
    raise ImageInvalid(f"it is not made for linux/{machine()}")


def fits(descriptor: object) -> bool:
    """Whether an index's entry runs here; one that names no platform is taken at its word."""
    wanted = _typed(descriptor, dict, "descriptor").get("platform")
    if wanted is None:
        return True
    wanted = _typed(wanted, dict, "platform")
    return (wanted.get("os"), wanted.get("architecture")) == ("linux", machine())


def diff_ids(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The digests of the decompressed layers, lowest first, from a config."""
    rootfs = _typed(document.get("rootfs"), dict, "config's rootfs")
    return _strings(rootfs.get("diff_ids"), "config's diff_ids")


def check_platform(document: Mapping[str, Any]) -> None:
    """Raises ImageInvalid when a config says that its programs can't run here."""
    system, architecture = document.get("os"), document.get("architecture")
    if system not in (None, "", "linux") or architecture not in (None, "", *_runs()):
        raise ImageInvalid(f"it is made for {system}/{architecture}, not for linux/{machine()}")


def _runs() -> tuple[str, ...]:
    """The architectures whose programs this machine's kernel takes."""
    older = {"amd64": ("386",), "arm64": ("arm",)}
    return (machine(), *older.get(machine(), ()))


def parse_config(document: Mapping[str, Any]) -> ImageConfig:
    """What of a config matters when a container starts."""
    settings = _typed(document.get("config") or {}, dict, "config")
    env = (line.partition("=") for line in _strings(settings.get("Env"), "Env"))
    return ImageConfig(
        entrypoint=_strings(settings.get("Entrypoint"), "Entrypoint"),
        cmd=_strings(settings.get("Cmd"), "Cmd"),
        env={name: value for name, _, value in env if name},
        user=_string(settings.get("User"), "User"),
        working_dir=_string(settings.get("WorkingDir"), "WorkingDir"),
    )


def _strings(value: object, what: str) -> tuple[str, ...]:
    return tuple(_string(item, what) for item in _typed(value or [], list, what))


def _string(value: object, what: str) -> str:
    text = _typed(value or "", str, what)
    if "\0" in text:
        raise ImageInvalid(f"its {what} has a NUL character")
    return text


def _typed(value: object, kind: type[_T], what: str) -> _T:
    if not isinstance(value, kind):
        raise ImageInvalid(f"its {what} is not a {kind.__name__}")
    return value
