"""`hades images`: the images that the `sandbox` executor keeps on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from environs import Env, EnvError

from executors.errors import HadesError
from executors.sandbox.images import ImageStore
from executors.settings import ExecutorSettings


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """The images of the sandbox executor, kept below HADES_DATA_DIR."""
    with _plain_errors():
        context.obj = store_of(ExecutorSettings.from_env(Env()))


def store_of(settings: ExecutorSettings) -> ImageStore:
    """The store that the worker uses: as root, what is unpacked belongs to the steps' user."""
    sandbox = settings.sandbox
    owner = sandbox.uid if os.geteuid() == 0 else None
    return ImageStore(sandbox.data_dir / "images", owner=owner)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.pass_obj
def load(store: ImageStore, files: tuple[Path, ...]) -> None:
    """Unpack images from FILES: of `docker save`, or OCI layouts (tar, tar.gz, directory)."""
    for file in files:
        with _plain_errors(f"{file}: "):
            for image in store.load(file):
                click.echo(image.reference)


@main.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.pass_obj
def pull(store: ImageStore, references: tuple[str, ...]) -> None:
    """Bring images from their registries, also when they are here: a tag may have moved."""
    for reference in references:
        with _plain_errors():
            image = store.pull(reference)
            click.echo(f"{image.reference} {image.digest}")


@main.command("list")
@click.pass_obj
def list_images(store: ImageStore) -> None:
    """Show which images are here."""
    rows = [(image.reference, image.digest, _size(image.size)) for image in store.list()]
    header = ("REFERENCE", "DIGEST", "SIZE")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


@main.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.pass_obj
def rm(store: ImageStore, references: tuple[str, ...]) -> None:
    """Forget references, or digests; unused files are deleted. No step may be using them."""
    for reference in references:
        with _plain_errors():
            if store.find(reference) is None:
                raise click.ClickException(f"no such image: {reference}")
            store.remove(reference)


def _size(size: int) -> str:
    """In units of a thousand, as `docker images` has it."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g}{unit}"


@contextmanager
def _plain_errors(subject: str = "") -> Iterator[None]:
    """Our errors as one line on stderr and exit code 1."""
    try:
        yield
    except (HadesError, EnvError) as error:
        raise click.ClickException(f"{subject}{error}") from error


if __name__ == "__main__":
    main()
