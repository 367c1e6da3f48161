"""The store of unpacked images.

    <root>/<sha256 of the config>/rootfs        the root file system, complete from the first moment
    <root>/<sha256 of the config>/image.json    digest, size and config
    <root>/references/<sha256 of the name>.json which image a reference means
    <root>/incoming/                            what is being unpacked or removed
    <root>/locks/                               one for the store, one a reference

An image is unpacked in `incoming` and renamed into place. Who only reads takes no lock.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from executors.deadline import Deadline
from executors.errors import ImageUnavailable
from executors.pulls import Abandoned, GivenUp, Pulls
from executors.resources import failure
from executors.sandbox.archives import opened_archive
from executors.sandbox.blobs import Budget, Bundle, ImageInvalid, open_layer
from executors.sandbox.blobs import sha256 as digest_of
from executors.sandbox.layers import Unpacker
from executors.sandbox.locks import locked, sweep, workshop
from executors.sandbox.manifests import (
    ImageConfig,
    check_platform,
    diff_ids,
    parse_config,
    parse_json,
)
from executors.sandbox.references import DIGEST, parse_reference
from executors.sandbox.registry_client import Registry
from executors.stopping import Stopping

__all__ = ["Image", "ImageConfig", "ImageStore"]

MAX_BYTES = 32 * 1024**3
MAX_ENTRIES = 1_000_000

_MACHINE_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
"""What the machine's state explains; any other OSError while unpacking is the archive's doing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image that is unpacked and ready."""

    reference: str
    """Normalised: `docker.io/library/alpine:latest`; the digest when it has no name."""
    digest: str
    """`sha256:...` of the image's config: the same content has the same digest."""
    rootfs: Path
    config: ImageConfig
    size: int = 0
    """Bytes of the files in its layers, decompressed."""


Images: TypeAlias = list[Image]


class ImageStore:
    """Images by reference, each unpacked once. For many threads and processes at a time."""

    def __init__(
        self,
        root: Path,
        *,
        owner: int | None = None,
        docker_config: Path | None = None,
        max_bytes: int = MAX_BYTES,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        """`owner`: uid and gid of all that is unpacked; None: whoever runs.

        `docker_config`: where `docker login` left its credentials. `max_bytes` and `max_entries`
        bound one image, unpacked.
        """
        self._root = root
        self._owner = owner
        self._docker_config = docker_config or Path("~/.docker/config.json").expanduser()
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._pulls = Pulls[Image]()

    def get(
        self, reference: str, deadline: Deadline | None = None, stopping: Stopping | None = None
    ) -> Image:
        """The image, pulled if it isn't there; who asks meanwhile shares that pull and its end.

        Raises ImageUnavailable, InfrastructureError when the disk is at fault, Stopped, and
        TimeoutError when `deadline` is over before the pull is.
        """
        if found := self.find(reference):
            return found
        name = _normalised(reference)
        pull = partial(self._pull, name, again=False)
        return self._pulls.get(name, pull, deadline or Deadline(None), stopping or Stopping())

    def find(self, reference: str) -> Image | None:
        """The image of a reference or digest if the store has it; never the network."""
        if DIGEST.fullmatch(reference):
            return self._image(reference, reference)
        name = _normalised(reference)
        known = _read_json(self._reference_file(name))
        return self._image(name, known["digest"]) if known else None

    def pull(self, reference: str) -> Image:
        """Ask the registry, also when the image is there: a tag may have moved.

        Raises ImageUnavailable, and InfrastructureError when the disk is at fault.
        """
        return self._pull(_normalised(reference), lambda: False, again=True)

    def load(self, archive: Path) -> Images:
        """All images of a `docker save` or OCI archive, tar or tar.gz, or of a directory.

        Raises ImageInvalid, and InfrastructureError when the disk is at fault.
        """
        self._prepare()
        with _disk_errors(), workshop(self._incoming, self._gate) as scratch:
            with opened_archive(archive, self._budget(), scratch) as bundles:
                return [image for bundle in bundles for image in self._install(bundle)]

    def list(self) -> Images:
        """All images, one for each reference, sorted by it; those without one by their digest."""
        known = [_read_json(path) for path in self._root.glob("references/*.json")]
        named = {entry["reference"]: entry["digest"] for entry in known if entry}
        nameless = {f"sha256:{path.name}" for path in self._root.glob("?" * 64)}
        pairs = {**{digest: digest for digest in nameless - set(named.values())}, **named}
        found = (self._image(name, digest) for name, digest in sorted(pairs.items()))
        return [image for image in found if image]

    def remove(self, reference: str) -> None:
        """Forget a reference, or a digest with all its references; unknown ones are no error.

        The root file system goes with the last reference: no step may be using it.
        """
        image = self.find(reference)
        if image is None:
            return
        self._prepare()
        with _disk_errors(), workshop(self._incoming, self._gate) as junk, locked(self._gate):
            names = [other.reference for other in self.list() if other.digest == image.digest]
            gone = names if DIGEST.fullmatch(reference) else [image.reference]
            for name in gone:
                self._reference_file(name).unlink(missing_ok=True)
            if set(names) <= set(gone) and self._home(image.digest).exists():
                self._home(image.digest).rename(junk / "image")

    def remove_orphans(self) -> int:
        """Remove what processes that died left half pulled or half removed; how much it was."""
        if not self._incoming.exists():
            return 0
        self._prepare()
        with _disk_errors(), locked(self._gate):
            drafts = list(self._root.glob("references/*.new"))
            for draft in drafts:
                draft.unlink()
            return sweep(self._incoming) + len(drafts)

    def _pull(self, name: str, abandoned: Abandoned, *, again: bool) -> Image:
        """`again`: even if another process has just pulled it."""
        self._prepare()
        with locked(self._root / "locks" / f"{_hash(name)}.lock"):
            found = None if again else self.find(name)
            return found or self._fetch(name, abandoned)

    def _fetch(self, name: str, abandoned: Abandoned) -> Image:
        if abandoned():
            raise GivenUp
        try:
            with _disk_errors(), Registry(parse_reference(name), self._docker_config) as registry:
                return self._install(registry.bundle(), abandoned)[0]
        except ImageInvalid as error:
            raise ImageUnavailable(name, str(error)) from error

    def _install(self, bundle: Bundle, abandoned: Abandoned = lambda: False) -> Images:
        """Unpack it unless it is there, and note its references."""
        digest = digest_of(bundle.config)
        if not self._record(bundle, digest):
            with workshop(self._incoming, self._gate) as directory:
                self._unpack(bundle, directory / "image", self._budget(abandoned))
                self._record(bundle, digest, directory / "image")
        names = bundle.references or (digest,)
        return [image for name in names if (image := self._image(name, digest))]

    def _unpack(self, bundle: Bundle, directory: Path, budget: Budget) -> None:
        document = parse_json(bundle.config, "config")
        check_platform(document)
        config, promised = parse_config(document), diff_ids(document)
        if len(promised) != len(bundle.layers):
            raise ImageInvalid(f"it has {len(bundle.layers)} layers, not {len(promised)}")
        (directory / "rootfs").mkdir(parents=True)
        directory.chmod(0o755)  # whatever the umask is: steps may run as another user
        with Unpacker(directory / "rootfs", owner=self._owner, budget=budget) as unpacker:
            for blob, diff_id in zip(bundle.layers, promised, strict=True):
                with open_layer(blob, diff_id, budget) as tar:
                    unpacker.apply(tar)
            unpacker.finish()
        _write_json(directory / "image.json", {"size": budget.written, "config": asdict(config)})

    def _record(self, bundle: Bundle, digest: str, made: Path | None = None) -> bool:
        """Note the references; False when neither the store has the image nor `made` brings it."""
        home = self._home(digest)
        with locked(self._gate):
            if made and not home.exists():
                made.rename(home)
            if not home.exists():
                return False
            for name in bundle.references:
                _write_json(self._reference_file(name), {"reference": name, "digest": digest})
        return True

    def _image(self, name: str, digest: str) -> Image | None:
        home = self._home(digest)
        known = _read_json(home / "image.json")
        if known is None:
            return None
        config = known["config"]
        lists = {key: tuple(config[key]) for key in ("entrypoint", "cmd")}
        return Image(
            reference=name,
            digest=digest,
            rootfs=home / "rootfs",
            config=ImageConfig(**{**config, **lists}),
            size=known["size"],
        )

    def _budget(self, abandoned: Abandoned = lambda: False) -> Budget:
        return Budget(max_bytes=self._max_bytes, max_entries=self._max_entries, abandoned=abandoned)

    def _prepare(self) -> None:
        with _disk_errors():
            for name in ("incoming", "locks", "references"):
                (self._root / name).mkdir(parents=True, exist_ok=True)

    @property
    def _incoming(self) -> Path:
        return self._root / "incoming"

    @property
    def _gate(self) -> Path:
        """The store's lock: held for moments, never while something is unpacked or pulled."""
        return self._root / "locks" / "store.lock"

    def _home(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")

    def _reference_file(self, name: str) -> Path:
        return self._root / "references" / f"{_hash(name)}.json"


def _normalised(reference: str) -> str:
    return str(parse_reference(reference))


def _hash(name: str) -> str:
    """A name of any length and characters as a file name."""
    return sha256(name.encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return data


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """At once or not at all: somebody may be reading."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(data))
    os.replace(draft, path)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """An OSError is the machine's failure, or an archive's that wants the impossible."""
    try:
        yield
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise failure("storing an image", error) from error
        raise ImageInvalid(f"it can't be unpacked: {error}") from error
