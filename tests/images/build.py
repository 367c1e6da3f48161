"""Makes the images that the tests and the examples run, from nothing but Debian's packages.

    python -m tests.images.build                load what is missing into the Engine
    python -m tests.images.build --save DIR     write busybox.tar and debian.tar, no Engine needed

Both skip what is there, unless `--force`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.images import busybox, debian

Writer = Callable[[Path, Iterable[str]], Path]
IMAGES: dict[str, tuple[Writer, tuple[str, ...]]] = {
    "busybox": (busybox.write_archive, busybox.TAGS),
    "debian": (debian.write_archive, debian.TAGS),
}


def load(name: str, *, force: bool = False) -> None:
    """Put an image of IMAGES into the Engine; tags that somebody else's image has stay with it."""
    write, tags = IMAGES[name]
    if force or not in_engine(tags[0]):
        with tempfile.TemporaryDirectory() as scratch:
            archive = write(Path(scratch, "image.tar"), tags[:1])
            _docker("load", "--quiet", "--input", str(archive))
    for tag in tags[1:]:
        if force or not in_engine(tag):
            _docker("tag", tags[0], tag)


def save(name: str, directory: Path, *, force: bool = False) -> Path:
    """Write an image of IMAGES to `directory`: from the Engine if it is there, else anew."""
    write, tags = IMAGES[name]
    path = directory / f"{name}.tar"
    if path.exists() and not force:
        return path
    directory.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    if not force and all(map(in_engine, tags)):
        _docker("save", "--output", str(partial), *tags)
    else:
        write(partial, tags)
    return partial.rename(path)


def in_engine(tag: str) -> bool:
    """Whether the Engine has `tag`; no Engine or no client counts as no."""
    try:
        _docker("image", "inspect", tag)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


def _docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def main(arguments: Iterable[str] | None = None) -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(IMAGES), metavar="IMAGE")
    parser.add_argument("--save", type=Path, metavar="DIR")
    parser.add_argument("--force", action="store_true")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    for name in chosen.names:
        if chosen.save:
            print(save(name, chosen.save, force=chosen.force))
        else:
            load(name, force=chosen.force)
            print(*IMAGES[name][1])


if __name__ == "__main__":
    main()
