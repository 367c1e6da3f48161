"""Names and passwords for registries, from Docker's `config.json`."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from urllib.parse import urlsplit

from executors.sandbox.references import DEFAULT_REGISTRY

Credentials = tuple[str, str]
"""User and password."""

_HUB = ("index.docker.io", "registry-1.docker.io")


def find_credentials(config: Path, registry: str) -> Credentials | None:
    """What `docker login` left for this registry; None when nothing usable is there.

    Only what stands in the file counts: credential helpers are programs, and not asked.
    """
    try:
        auths = json.loads(config.read_bytes())["auths"]
        entries = {_registry_of(key): value for key, value in auths.items()}
        return _decode(entries[registry])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _registry_of(key: str) -> str:
    """Keys are hosts or addresses: `https://index.docker.io/v1/` is Docker Hub's."""
    host = urlsplit(key if "//" in key else f"//{key}").netloc
    return DEFAULT_REGISTRY if host in _HUB else host


def _decode(entry: dict[str, str]) -> Credentials | None:
    if "auth" not in entry:
        return entry["username"], entry["password"]
    try:
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except binascii.Error:
        return None
    return user, password.rstrip("\0")
