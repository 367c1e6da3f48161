"""How each long-lived process is started: its argv and its environment.

The same commands serve `hades api` and its sisters, which become that process, and `hades dev`,
which starts them as children.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gunicorn.config import make_settings

from app.cli_settings import ROOT, CliSettings, environment
from app.settings import API_THREADS

API_APP = "app.factory:api()"
LOGS_APP = "app.factory:logs()"
WORKER_BROKER = "workers.main:setup"
IMAGES_MODULE = "workers.images"
CALLBACKS_MODULE = "app.logs.callbacks.main"

WEB_WORKER = "app.server.worker.WholeRequestWorker"
KEEP_ALIVE = 95
"""Seconds that an idle client stays connected: longer than proxies (Traefik: 90) keep us open."""

HAND_BACK_SECONDS = 30.0  # after its grace period, for a worker to hand back what it runs
GRACEFUL_TIMEOUT = 30  # seconds that gunicorn gives its open requests when it stops


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A process to start."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """What it gets on top of our own environment."""


def api_command(settings: CliSettings) -> Command:
    """The HTTP API on all addresses."""
    return web_command(
        API_APP,
        bind=f"0.0.0.0:{settings.api_port}",
        processes=settings.web_concurrency,
        threads=API_THREADS,
    )


def logs_command(settings: CliSettings) -> Command:
    """The log manager on all addresses; one process: what it serves lies in NATS."""
    return web_command(LOGS_APP, bind=f"0.0.0.0:{settings.logs_port}", processes=1, threads=64)


def web_command(
    app: str, *, bind: str, processes: int, threads: int, grace: int = GRACEFUL_TIMEOUT
) -> Command:
    """`bind` is `HOST:PORT` or `fd://N`; `threads`: the most of a process; `grace`: seconds."""
    options = ["--worker-class", WEB_WORKER, "--workers", str(processes), "--threads", str(threads)]
    options += ["--keep-alive", str(KEEP_ALIVE)]
    options += ["--bind", bind, "--graceful-timeout", str(grace)]
    if "control_socket_disable" in make_settings():  # newer versions open one in the home directory
        options.append("--no-control-socket")
    # Gunicorn puts the working directory first on sys.path, unless it is there already.
    return Command(
        argv=_python("gunicorn", *options, app),
        env={"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path.cwd())))},
    )


def worker_command(settings: CliSettings) -> Command:
    """One process with a thread a job. A busy worker prefetches no job it can't start."""
    threads = str(settings.concurrency)
    timeout_ms = str(int((settings.shutdown_timeout + HAND_BACK_SECONDS) * 1000))
    options = ["--path", str(ROOT), "--processes", "1", "--threads", threads]
    options += ["--worker-shutdown-timeout", timeout_ms]
    return Command(
        argv=_python("dramatiq", WORKER_BROKER, *options),
        env={
            "PYTHONPATH": str(ROOT),
            "dramatiq_queue_prefetch": threads,
            "CONCURRENCY": threads,
            "HADES_SHUTDOWN_TIMEOUT": f"{settings.shutdown_timeout:g}",
        },
    )


def images_command(arguments: Sequence[str]) -> Command:
    """The sandbox's image store, kept by `workers`, which this floor does not import."""
    return Command(argv=_python(IMAGES_MODULE, *arguments), env={"PYTHONPATH": str(ROOT)})


def callbacks_command(arguments: Sequence[str]) -> Command:
    """The outbox, without a log manager."""
    return Command(argv=_python(CALLBACKS_MODULE, *arguments), env={"PYTHONPATH": str(ROOT)})


def become(command: Command) -> NoReturn:
    """Replace this process, so that signals reach the new one directly."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command.argv[0], list(command.argv), environment(**command.env))


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    """`-P`: what lies in the working directory is not imported by accident."""
    return (sys.executable, "-P", "-m", module, *arguments)
