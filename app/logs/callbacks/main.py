"""`hades callbacks`: send callbacks, look at those that were given up, have them sent again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click
from environs import Env, EnvError

from app.factory import callbacks
from brokers.callbacks.messages import DeadCallback
from brokers.callbacks.queue import BrokerError, CallbackQueue, open_callbacks
from brokers.settings import NatsSettings

_ENDING = (signal.SIGTERM, signal.SIGINT)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Send callbacks, without a log manager, until SIGTERM or Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # also in the threads that begin now
    with _plain_errors():
        service = callbacks()
    service.start()
    signal.sigwait(_ENDING)
    service.stop()


@main.command()
def dead() -> None:
    """List the callbacks that were given up: id, time, reason."""
    with _outbox() as queue:
        for letter in queue.dead():
            click.echo(_line(letter))


@main.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def replay(ids: tuple[str, ...], everything: bool) -> None:
    """Have callbacks that were given up sent again: those with these IDs, or all."""
    if everything == bool(ids):
        raise click.UsageError("Name the callbacks, or say --all.")
    with _outbox() as queue:
        count = queue.replay(None if everything else ids)
    click.echo(f"{count} will be sent again")
    if missing := len(set(ids)) - count if ids else 0:
        raise click.ClickException(f"{missing} not found")


def _line(letter: DeadCallback) -> str:
    return "\t".join((letter.id or "-", letter.since, letter.reason))


@contextmanager
def _outbox() -> Iterator[CallbackQueue]:
    with _plain_errors():
        settings = NatsSettings.from_env(Env())
        connection = settings.connect()
        queue = open_callbacks(settings, connection)
        try:
            yield queue
        finally:
            queue.close()
            connection.close()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """As one line on stderr and exit code 1."""
    try:
        yield
    except EnvError as error:
        raise click.ClickException(str(error)) from error
    except BrokerError as error:
        raise click.ClickException(f"NATS does not answer: {error}") from error


if __name__ == "__main__":
    main(prog_name="hades callbacks")
