"""Images in files: what `docker save` writes, and OCI layouts; as tar, tar.gz or directory.

`skopeo copy docker://name oci-archive:name.tar:name` writes one too: a way to bring images to a
machine without Internet.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from posixpath import dirname, normpath
from tempfile import TemporaryFile
from typing import IO, Any

from executors.errors import ImageUnavailable
from executors.sandbox.blobs import (
    CHUNK,
    Blob,
    Budget,
    Bundle,
    ImageInvalid,
    checked,
    decompressed,
)
from executors.sandbox.manifests import (
    MAX_JSON,
    choose,
    digest_of,
    fits,
    is_index,
    parse_json,
    parse_manifest,
    parse_save_list,
)
from executors.sandbox.references import parse_reference
from executors.sandbox.tars import CheckedTarInfo, members, tar_errors
from executors.sandbox.tree import MAX_LINKS, Tree, split

Open = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Opens a file of the archive by its name there. Raises ImageInvalid when there is none."""

MAX_FILES = 20_000
"""Files of an archive, each a layer or a piece of JSON."""

_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_CONFIG = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


class _Missing(ImageInvalid):
    """The archive has no such file."""


@contextmanager
def opened_archive(path: Path, budget: Budget, scratch: Path) -> Iterator[list[Bundle]]:
    """The images of an archive; their layers can be read until the block is left.

    `scratch` is a directory for the decompressed form of a `.tar.gz`. Raises ImageInvalid, and
    OSError when the file can't be read.
    """
    with ExitStack() as stack:
        if path.is_dir():
            tree = stack.enter_context(Tree(path.resolve()))
            yield _bundles(partial(_from_tree, tree))
            return
        file = stack.enter_context(path.open("rb"))
        plain = stack.enter_context(_seekable(file, budget, scratch))
        with tar_errors():
            tar = stack.enter_context(
                tarfile.open(fileobj=plain, mode="r:", tarinfo=CheckedTarInfo)
            )
            listed = _listed(tar)
        yield _bundles(partial(_from_tar, tar, listed))


@contextmanager
def _seekable(file: IO[bytes], budget: Budget, scratch: Path) -> Iterator[IO[bytes]]:
    """The archive itself, or its decompressed copy."""
    head = file.read(512)
    file.seek(0)
    if head[257:262] == b"ustar":
        yield file
        return
    with TemporaryFile(dir=scratch) as copy, tar_errors():
        source = decompressed(file)
        while data := source.read(CHUNK):
            budget.count_read(len(data))
            copy.write(data)
        copy.seek(0)
        yield copy


def _from_tree(tree: Tree, name: str) -> IO[bytes]:
    names = split(name)
    if not names or ".." in names:
        raise ImageInvalid(f"it names a file outside of itself: {name!r}")
    try:
        return tree.open_file(names)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _Missing(f"its {name} is missing") from error


def _listed(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    listed: dict[str, tarfile.TarInfo] = {}
    for member in members(tar):
        listed[normpath(member.name)] = member
        if len(listed) > MAX_FILES:
            raise ImageInvalid(f"its archive has more than {MAX_FILES} files")
    return listed


@contextmanager
def _from_tar(
    tar: tarfile.TarFile, listed: Mapping[str, tarfile.TarInfo], name: str
) -> Iterator[IO[bytes]]:
    """`docker save` writes a layer once, and links where another image has it too."""
    member = listed.get(normpath(name))
    for _ in range(MAX_LINKS):
        if member is None or not (member.issym() or member.islnk()):
            break
        base = dirname(member.name) if member.issym() else ""
        member = listed.get(normpath(f"{base}/{member.linkname}" if base else member.linkname))
    file = tar.extractfile(member) if member is not None and member.isreg() else None
    if file is None:
        raise _Missing(f"its {name} is missing")
    with tar_errors(), file:
        yield file


def _bundles(open_: Open) -> list[Bundle]:
    saved = _read_if_there(open_, "manifest.json")
    if saved is not None:
        return [_from_save(open_, entry) for entry in parse_save_list(saved)]
    index = _read_if_there(open_, "index.json")
    if index is None:
        raise ImageInvalid("it is neither the output of `docker save` nor an OCI layout")
    return _from_layout(open_, parse_json(index, "index"))


def _from_save(open_: Open, entry: tuple[str, tuple[str, ...], tuple[str, ...]]) -> Bundle:
    config, tags, layers = entry
    return Bundle(
        references=tuple(_normalised(tag) for tag in tags),
        config=_read(open_, config, _promise(_CONFIG, config)),
        layers=tuple(
            Blob(open=partial(open_, name), digest=_promise(_BLOB, name)) for name in layers
        ),
    )


def _promise(pattern: re.Pattern[str], name: str) -> str | None:
    """The digest that a file's name promises."""
    match = pattern.fullmatch(name)
    return f"sha256:{match[1]}" if match else None


def _from_layout(open_: Open, index: Mapping[str, Any]) -> list[Bundle]:
    listed = index.get("manifests")
    found = [item for item in listed if fits(item)] if isinstance(listed, list) else []
    if not found:
        choose(index)  # says why there is none
    return [_from_descriptor(open_, item) for item in found]


def _from_descriptor(open_: Open, descriptor: Mapping[str, Any]) -> Bundle:
    document = _document(open_, digest_of(descriptor))
    if is_index(document):
        document = _document(open_, choose(document))
    manifest = parse_manifest(document)
    return Bundle(
        references=_names(descriptor),
        config=_read(open_, _path(manifest.config), manifest.config),
        layers=tuple(
            Blob(open=partial(open_, _path(digest)), digest=digest) for digest in manifest.layers
        ),
    )


def _names(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    """From its annotations. A bare word is a tag of who knows what, so it names nothing."""
    annotations = descriptor.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise ImageInvalid("its annotations are not a dict")
    name = annotations.get(_NAME) or annotations.get(_REF_NAME) or ""
    return (_normalised(str(name)),) if re.search("[:/]", str(name)) else ()


def _normalised(name: str) -> str:
    try:
        return str(parse_reference(name))
    except ImageUnavailable as error:
        raise ImageInvalid(f"it has an invalid name: {name!r}") from error


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _document(open_: Open, digest: str) -> dict[str, Any]:
    return parse_json(_read(open_, _path(digest), digest), "manifest")


def _read_if_there(open_: Open, name: str) -> bytes | None:
    try:
        return _read(open_, name, None)
    except _Missing:
        return None


def _read(open_: Open, name: str, digest: str | None) -> bytes:
    with open_(name) as file:
        return checked(file.read(MAX_JSON + 1), MAX_JSON, digest, name)
