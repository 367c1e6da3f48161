"""The files that every sandbox needs, as the topmost layer of its root.

A directory of this layer hides whatever else an image has under its name: an image whose `/tmp` or
`/shared` is a symbolic link can't lead a mount astray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from executors.sandbox.convert import HOSTNAME

DIRECTORIES = ("dev", "etc", "proc", "shared", "tmp")
FILES = {
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
}
"""The name server is that of `network`; without a network nobody answers."""


def write_skeleton(
    directory: Path,
    owner: int | None,
    directories: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
) -> None:
    """Make `directory`, with the skeleton in it and what else is given.

    `owner` is the uid and gid of it all; None: whoever runs. Raises OSError.
    """
    made = [directory, *(directory / name for name in (*DIRECTORIES, *directories))]
    for path in made:
        path.mkdir()
        path.chmod(0o755)
    for name, text in {**FILES, **(files or {})}.items():
        path = directory / name
        path.write_text(text)
        path.chmod(0o644)
        made.append(path)
    if owner is not None:
        for path in made:
            os.chown(path, owner, owner)
