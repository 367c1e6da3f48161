"""Who an image's USER is, by the image's own `/etc/passwd` and `/etc/group`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from executors.errors import StepRefused
from executors.sandbox.blobs import ImageInvalid
from executors.sandbox.convert import User
from executors.sandbox.tree import Tree

MAX_ID = 2**32 - 2
MAX_FILE = 1024 * 1024
"""Bytes of a passwd that are read."""

Fields = tuple[str, ...]


def find_user(user: str, rootfs: Path) -> User:
    """Raises StepRefused when the image does not know it."""
    name, _, group = user.partition(":")
    with Tree(rootfs) as tree:
        entry = _find(tree, "passwd", name or "root", 7)
        uid = _id(entry[2] if entry else "0" if name in ("", "root") else name)
        gid = _id(_group(tree, group)) if group else _id(entry[3]) if entry else 0
    if uid is None or gid is None:
        raise StepRefused(f"its image has no user {user}")
    home = entry[5] if entry else ""
    return User(uid=uid, gid=gid, home=home or ("/root" if uid == 0 else "/"))


def _group(tree: Tree, group: str) -> str:
    entry = _find(tree, "group", group, 4)
    return entry[2] if entry else group


def _find(tree: Tree, file: str, wanted: str, width: int) -> Fields | None:
    """The first entry with this name or, as a number, id."""
    for entry in _entries(tree, file):
        if len(entry) == width and wanted in (entry[0], entry[2]):
            return entry
    return None


def _entries(tree: Tree, file: str) -> Iterator[Fields]:
    """None when there is no such file, or something else has its name."""
    try:
        with tree.open_file(("etc", file)) as data:
            text = data.read(MAX_FILE).decode(errors="replace")
    except (OSError, ImageInvalid):
        return
    for line in text.splitlines():
        yield tuple(line.split(":"))


def _id(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None
