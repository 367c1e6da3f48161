"""`hades keys`: who may use the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from app.key_file import KeyFileError, add_key, read_keys, remove_keys
from app.keys import ApiKey, KeyInvalid, Scope, describe, digest_of, new_secret

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HADES_API_KEYS_FILE",
    show_envvar=True,
    required=True,
    help="The file of the keys.",
)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys. A running API notices within a second."""


@contextmanager
def told() -> Iterator[None]:
    """What is wrong with keys, as an error of the command."""
    try:
        yield
    except (KeyFileError, KeyInvalid) as error:
        raise click.ClickException(str(error)) from error


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="What the key is for; may be repeated.",
)
@click.option("--rate", default="", help="Jobs that it may submit, like 50/s, 3000/m or 100/h.")
@click.option("--burst", default="", help="Jobs at once. Default: the rate's number.")
@click.option("--expires", default="", help="The first day, UTC, on which it is refused.")
@click.option("--another", is_flag=True, help="The name keeps the keys that it has.")
@_file
def create(
    name: str,
    scopes: tuple[str, ...],
    rate: str,
    burst: str,
    expires: str,
    another: bool,
    path: Path,
) -> None:
    """Create a key for NAME and print it. It is shown this once: only its hash is kept."""
    secret = new_secret()
    with told():
        key = describe(name, digest_of(secret), scopes, rate=rate, burst=burst, expires=expires)
        add_key(path, key, another=another)
    click.echo(secret)


@keys.command("list")
@_file
def list_keys(path: Path) -> None:
    """Print name, id, scopes, rate and end of each key."""
    with told():
        ring = read_keys(path)
    for key in ring:
        click.echo("  ".join(_columns(key)).rstrip())


def _columns(key: ApiKey) -> tuple[str, ...]:
    rate = f"{key.rate} (burst {key.rate.burst})" if key.rate else "-"
    return (
        f"{key.name:<20}",
        key.id,
        f"{','.join(sorted(key.scopes)):<20}",
        f"{rate:<20}",
        _end(key),
    )


def _end(key: ApiKey) -> str:
    if key.expires is None:
        return ""
    return f"expired {key.expires}" if key.expired(datetime.now(UTC)) else f"expires {key.expires}"


@keys.command()
@click.argument("name")
@click.option("--id", "key_id", default="", help="Only this one of the name's keys.")
@_file
def revoke(name: str, key_id: str, path: Path) -> None:
    """Remove the keys of NAME."""
    with told():
        if not remove_keys(path, name, key_id):
            raise click.ClickException(f"there is no such key in {path}")
