"""What the `hades` command offers.

Exit codes of `submit` and `demo`: 0 the job succeeded, 1 it did not, 2 the command or the job is
refused, 3 a server can't be reached.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import IO

import click
from environs import Env, EnvError

from app import commands
from app.cli_keys import keys, told
from app.cli_settings import CliSettings, load_dotenv
from app.client import HadesClient, LogLine, ServerUnreachable, StateChange, SubmissionRefused
from app.demo import run_demo
from app.dev import DevOptions, run_dev
from app.key_file import read_keys
from app.settings import ApiSettings
from app.version import installed_version
from executors.errors import HadesError
from executors.job import JobState

_NOT_INSTALLED = "(a checkout that is not installed)"


class Refused(click.ClickException):
    """The API does not want the job."""

    exit_code = 2


class Unreachable(click.ClickException):
    """A server can't be reached, or fails."""

    exit_code = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(installed_version() or _NOT_INSTALLED, prog_name="hades")
def main() -> None:
    """Hades runs container jobs. Settings come from the environment and from ./.env."""
    load_dotenv(Path.cwd())


main.add_command(keys)


def _settings() -> CliSettings:
    try:
        return CliSettings.from_env(Env())
    except EnvError as error:
        raise click.UsageError(str(error)) from error


@main.command()
def api() -> None:
    """Serve the HTTP API, on API_PORT."""
    _check_keys()
    commands.become(commands.api_command(_settings()))


def _check_keys() -> None:
    """Better here than in each process of the server."""
    try:
        path = ApiSettings.from_env(Env()).api_keys_file
    except EnvError as error:
        raise click.UsageError(str(error)) from error
    with told():
        if path:
            read_keys(Path(path))


@main.command()
def logs() -> None:
    """Serve the log manager, on HADESLOGMANAGER_API_PORT."""
    commands.become(commands.logs_command(_settings()))


@main.command()
def worker() -> None:
    """Run jobs, CONCURRENCY at once."""
    commands.become(commands.worker_command(_settings()))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def images(arguments: tuple[str, ...]) -> None:
    """Look after the images of the sandbox."""
    commands.become(commands.images_command(arguments))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def callbacks(arguments: tuple[str, ...]) -> None:
    """Send callbacks; list those that were given up (`dead`), send them again (`replay`)."""
    commands.become(commands.callbacks_command(arguments))


@main.command()
@click.argument("file", type=click.File("rb"))
@click.option("--follow", is_flag=True, help="Print the job's output and wait for its end.")
@click.option("--wait", is_flag=True, help="Wait for the job's end.")
@click.option("--url", default="http://localhost:8080", show_default=True, help="The API.")
@click.option(
    "--logs-url",
    default="http://localhost:8081",
    envvar="LOG_MANAGER_URL",
    show_default=True,
    show_envvar=True,
    help="The log manager.",
)
@click.option("--auth-key", default="", envvar="AUTH_KEY", show_envvar=True, help="The password.")
def submit(
    file: IO[bytes], follow: bool, wait: bool, url: str, logs_url: str, auth_key: str
) -> None:
    """Submit the job in FILE ('-': standard input) and print its id."""
    body = file.read()
    with HadesClient(api_url=url, logs_url=logs_url, auth_key=auth_key) as client:
        try:
            job_id = client.submit(body)
            click.echo(job_id)
            if follow or wait:
                _conclude(_await_end(client, job_id, show=follow))
        except SubmissionRefused as error:
            raise Refused(str(error)) from error
        except ServerUnreachable as error:
            raise Unreachable(str(error)) from error


def _await_end(client: HadesClient, job_id: str, *, show: bool) -> StateChange:
    end = StateChange(state="")
    for event in client.follow(job_id):
        if isinstance(event, StateChange):
            end = event
        elif show:
            click.echo(event.message, err=event.stream == "stderr")
    return end


def _conclude(end: StateChange) -> None:
    """Leave with the exit code that a final state stands for."""
    if end.state != JobState.SUCCEEDED:
        raise click.ClickException(f"{end.state}: {end.reason}" if end.reason else end.state)


def _stack_options(command: click.decorators.FC) -> click.decorators.FC:
    """The options that `dev` and `demo` share."""
    port = click.IntRange(1, 65535)
    for option in (
        click.option("--concurrency", type=click.IntRange(1), default=2, show_default=True),
        click.option("--executor", type=click.Choice(["docker", "sandbox", "dummy"])),
        click.option("--nats-port", type=port, help="Default: 4222, or the next free one."),
        click.option("--logs-port", type=port, help="Default: 8081, or the next free one."),
        click.option("--api-port", type=port, help="Default: 8080, or the next free one."),
    ):
        command = option(command)
    return command


@main.command()
@_stack_options
@click.option("--data-dir", type=click.Path(path_type=Path), default=".hades", show_default=True)
def dev(**given: object) -> None:
    """Run everything on this machine until Ctrl-C: NATS, API, worker, log manager."""
    try:
        run_dev(_options(given), _settings(), _prefixed, _tell)
    except HadesError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@_stack_options
@click.option("--data-dir", type=click.Path(path_type=Path), help="Default: a temporary one.")
def demo(**given: object) -> None:
    """Run an example job through everything, on free ports, and leave nothing behind."""
    try:
        end = run_demo(_options(given), _settings(), _tell, _show)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except HadesError as error:
        raise click.ClickException(str(error)) from error
    if end.reason:
        _tell("reason", end.reason)
    click.echo(end.state)
    raise SystemExit(0 if end.state == JobState.SUCCEEDED else 1)


def _options(given: dict[str, object]) -> DevOptions:
    """What was not given keeps the default of `DevOptions`."""
    return DevOptions(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _tell(name: str, value: str) -> None:
    click.echo(f"{name:<10}{value}")


def _prefixed(name: str, line: str) -> None:
    click.echo(f"{name:<7}| {line}")


def _show(line: LogLine) -> None:
    click.echo(f"[{line.step_name}] {line.message}")
