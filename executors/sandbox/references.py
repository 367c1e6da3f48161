"""Image references, read the way Docker reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from executors.errors import ImageUnavailable

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Which image is meant: by a tag that may move, or by a digest that can't."""

    registry: str
    """Host and port; `docker.io` when none is named."""
    repository: str
    tag: str = ""
    """Empty when there is a digest: the digest decides."""
    digest: str = ""
    """`sha256:...` of the manifest, or of the index of several."""

    def __str__(self) -> str:
        """The normalised form: two texts that mean the same image give the same."""
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{end}"

    @property
    def host(self) -> str:
        """The registry's host without its port."""
        return re.sub(r":[0-9]+$", "", self.registry).strip("[]")

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, and therefore spoken to without TLS."""
        return self.host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", self.host))


def parse_reference(text: str) -> Reference:
    """`alpine`, `host:port/name:tag` or `name@sha256:...`. Raises ImageUnavailable."""
    rest, _, digest = text.partition("@")
    registry, rest = _split_registry(rest)
    repository, _, tag = rest.partition(":")
    reference = Reference(
        registry=registry,
        repository=_official(registry, repository),
        tag="" if digest else tag or DEFAULT_TAG,
        digest=digest,
    )
    if not _valid(reference, tag) or text.endswith(("@", ":")):
        raise ImageUnavailable(text, "invalid reference format")
    return reference


def _split_registry(rest: str) -> tuple[str, str]:
    first, slash, remainder = rest.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not looks_like_host:
        return DEFAULT_REGISTRY, rest
    return DEFAULT_REGISTRY if first == "index.docker.io" else first, remainder


def _official(registry: str, repository: str) -> str:
    """Docker Hub's images without an owner live under `library`."""
    bare = registry == DEFAULT_REGISTRY and "/" not in repository
    return f"library/{repository}" if bare else repository


def _valid(reference: Reference, tag: str) -> bool:
    return bool(
        _REGISTRY.fullmatch(reference.registry)
        and _REPOSITORY.fullmatch(reference.repository)
        and len(reference.registry) + len(reference.repository) < _MAX_NAME
        and (not tag or _TAG.fullmatch(tag))
        and (not reference.digest or DIGEST.fullmatch(reference.digest))
    )
