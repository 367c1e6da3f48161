"""The whole house on one desk, for `hades dev` and `hades demo`.

    with open_stack(options, settings, output) as stack: ...

starts NATS, the log manager, a worker and the API, and returns when all are ready. All of them
listen on the loopback only.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from app.cli_settings import CliSettings
from app.commands import API_APP, LOGS_APP, web_command, worker_command
from app.engine import Engine
from app.supervisor import Output, Program, Supervisor
from brokers.embedded import EmbeddedNats
from executors.errors import HadesError

Tell = Callable[[str, str], None]
"""Takes a name and a value, to be shown."""

HOST = "127.0.0.1"
NATS_PORT = 4222
WORKER_READY = "Worker process is ready for action."

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY_TIMEOUT = 60.0  # seconds for all programs together
_GRACE = 3  # seconds that open requests and running jobs get when all ends
_PORTS_TRIED = 100  # how far from a default port the next free one is looked for


class DevError(HadesError):
    """The stack can't be started as asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevOptions:
    """What was asked for on the command line."""

    data_dir: Path = Path()
    concurrency: int = 2
    executor: str = ""
    """Empty: HADES_EXECUTOR, else Docker if an Engine answers, else the sandbox."""
    api_port: int | None = None
    logs_port: int | None = None
    nats_port: int | None = None
    """A port that is given must be free; None: the default, else the next free one."""
    private: bool = False
    """A stack for nobody else: None means any free port, and the API is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The executor, and why it."""

    executor: str
    why: str
    asked_for: bool = False
    """By an option or a variable, and so not to be changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A running stack."""

    api_url: str
    logs_url: str
    children: Supervisor


def choose_executor(options: DevOptions, settings: CliSettings) -> Choice:
    """What was asked for; else Docker if an Engine answers, else the sandbox."""
    if options.executor:
        return Choice(executor=options.executor, why="asked for by --executor", asked_for=True)
    if settings.executor:
        why = "asked for by HADES_EXECUTOR"
        return Choice(executor=settings.executor, why=why, asked_for=True)
    with Engine(settings.docker_host) as engine:
        if engine.answers():
            return Choice(executor="docker", why=f"a Docker Engine answers at {engine.host}")
        return Choice(executor="sandbox", why=f"no Docker Engine answers at {engine.host}")


def listen(port: int | None, default: int) -> socket.socket:
    """Take the given port, else the first free one from `default` on (0: any). Raises DevError."""
    last = default if default == 0 else default + _PORTS_TRIED
    for candidate in range(default, last + 1) if port is None else (port,):
        try:
            return socket.create_server((HOST, candidate), backlog=128)
        except OSError as error:
            trouble = os.strerror(error.errno or 0)
    raise DevError(f"port {port or default} is taken: {trouble}")


@contextmanager
def open_stack(
    options: DevOptions,
    settings: CliSettings,
    choice: Choice,
    *,
    output: Output,
    tell: Tell,
) -> Iterator[Stack]:
    """`tell` gets what was started, as name and value; `output` what the programs print.

    Raises DevError, EmbeddedNatsError or ChildFailed.
    """
    data_dir = options.data_dir.resolve()
    with ExitStack() as stack:
        logs = stack.enter_context(_listen(options, options.logs_port, settings.logs_port))
        api = stack.enter_context(_listen(options, options.api_port, settings.api_port))
        nats = stack.enter_context(EmbeddedNats(data_dir / "nats", _nats_port(options)))
        shared = _environment(options, settings, choice)
        shared.update(NATS_URL=nats.url, LOG_MANAGER_URL=_url(logs))
        _introduce(tell, shared, choice)
        for name, value in (("api", _url(api)), ("logs", _url(logs)), ("nats", nats.url)):
            tell(name, value)
        tell("data", str(data_dir))
        children = stack.enter_context(Supervisor(output))
        stack.callback(ignore_signals)
        children.watch("nats", nats.wait)
        children.start(_web("logs", LOGS_APP, logs, "/health", shared))
        children.start(_worker(settings, options.concurrency, shared))
        children.start(_web("api", API_APP, api, "/ping", shared))
        running = Stack(api_url=_url(api), logs_url=_url(logs), children=children)
        logs.close()
        api.close()
        children.await_ready(_READY_TIMEOUT)
        yield running


def _introduce(tell: Tell, shared: dict[str, str], choice: Choice) -> None:
    tell("executor", f"{choice.executor} ({choice.why})")
    if shared.get("HADES_SANDBOX_HOST_FALLBACK") == "true":
        tell("", "where an image can't be had, this machine's own programs are used, read-only")


def _listen(options: DevOptions, port: int | None, default: int) -> socket.socket:
    return listen(port, 0 if options.private else default)


def _nats_port(options: DevOptions) -> int | None:
    if options.private and options.nats_port is None:
        return None
    with listen(options.nats_port, NATS_PORT) as taken:
        return int(taken.getsockname()[1])


def _url(listening: socket.socket) -> str:
    return f"http://{HOST}:{listening.getsockname()[1]}"


def _environment(options: DevOptions, settings: CliSettings, choice: Choice) -> dict[str, str]:
    """What all programs get. The NATS server is our own: no login, no TLS."""
    shared = {
        "PYTHONUNBUFFERED": "1",
        "NATS_USERNAME": "",
        "NATS_PASSWORD": "",
        "NATS_TLS_ENABLED": "false",
        "CONCURRENCY": str(options.concurrency),
        "HADES_EXECUTOR": choice.executor,
        "HADES_INDEX_DIR": str(options.data_dir.resolve() / "index"),
    }
    if choice.executor == "sandbox":
        shared["HADES_SANDBOX_HOST_FALLBACK"] = settings.host_fallback or "true"
    if options.private:
        shared.update(AUTH_KEY="", HADES_API_KEYS_FILE="", HADES_RATE_LIMIT="")
        shared["HADES_WORKER_PORT"] = "0"
        shared["HADES_DATA_DIR"] = str(options.data_dir.resolve() / "sandbox")
    return shared


def _web(
    name: str, app: str, listening: socket.socket, path: str, shared: dict[str, str]
) -> Program:
    """Served on a socket that is open already: who connects early waits, and is answered."""
    descriptor = listening.fileno()
    command = web_command(app, bind=f"fd://{descriptor}", processes=1, threads=64, grace=_GRACE)
    url = _url(listening) + path
    return Program(
        name=name,
        command=replace(command, env={**shared, **command.env}),
        await_answer=lambda: await_ok(url),
        pass_fds=(descriptor,),
    )


def _worker(settings: CliSettings, concurrency: int, shared: dict[str, str]) -> Program:
    own = replace(settings, concurrency=concurrency, shutdown_timeout=float(_GRACE))
    command = worker_command(own)
    command = replace(command, env={**shared, **command.env})
    return Program(name="worker", command=command, ready_line=WORKER_READY)


def await_ok(url: str) -> None:
    """Until `url` answers with success. Never returns if it never does."""
    while True:
        try:
            if httpx.get(url, timeout=5.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)


def run_dev(options: DevOptions, settings: CliSettings, output: Output, tell: Tell) -> None:
    """Until a signal ends it. Raises what `open_stack` raises."""
    choice = choose_executor(options, settings)
    with interruptible():
        try:
            with open_stack(options, settings, choice, output=output, tell=tell) as stack:
                tell("ready", "end it with Ctrl-C")
                while True:
                    stack.children.next_event()
        except KeyboardInterrupt:
            return


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does."""
    before = {signum: signal.signal(signum, signal.default_int_handler) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def ignore_signals() -> None:
    """From here on the end is under way, and takes its bounded time."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
