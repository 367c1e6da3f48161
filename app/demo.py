"""`hades demo`: one job through a whole house of its own, which is gone afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread

from app.cli_settings import ROOT, CliSettings
from app.client import HadesClient, LogLine, StateChange
from app.dev import Choice, DevOptions, Stack, Tell, choose_executor, interruptible, open_stack
from app.engine import Engine
from app.supervisor import ChildFailed
from executors.errors import HadesError

JOB_FILE = ROOT / "examples" / "three-steps.json"

_PULL_TIMEOUT = 60.0  # seconds for all images together
_TAIL = 20  # lines of a failed program's log that are shown


def run_demo(
    options: DevOptions, settings: CliSettings, tell: Tell, show: Callable[[LogLine], None]
) -> StateChange:
    """The job's end. Raises what `open_stack` and `HadesClient` raise, or KeyboardInterrupt.

    An empty path as `data_dir`, `Path()`, means a temporary directory.
    """
    body = JOB_FILE.read_bytes()
    choice = _choose_executor(options, settings, body)
    with interruptible(), _data_dir(options.data_dir) as data_dir:
        output = _LogFiles(data_dir)
        private = replace(options, data_dir=data_dir, private=True)
        try:
            with open_stack(private, settings, choice, output=output, tell=tell) as stack:
                return _run_job(stack, body, tell, show)
        except ChildFailed as error:
            raise ChildFailed(error.names, f"{error}{output.tails(error.names)}") from error


def _run_job(stack: Stack, body: bytes, tell: Tell, show: Callable[[LogLine], None]) -> StateChange:
    with HadesClient(api_url=stack.api_url, logs_url=stack.logs_url) as client:
        job_id = client.submit(body)
        tell("job", job_id)
        Thread(target=_follow, args=(stack, client, job_id), daemon=True).start()
        while True:
            event = stack.children.next_event()
            if isinstance(event, HadesError):
                raise event
            if isinstance(event, LogLine):
                show(event)
            elif isinstance(event, StateChange) and event.final:
                return event


def _follow(stack: Stack, client: HadesClient, job_id: str) -> None:
    """In a thread of its own, so that the death of a program is noticed in between."""
    try:
        for event in client.follow(job_id):
            stack.children.post(event)
    except (HadesError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
        stack.children.post(error)


def _choose_executor(options: DevOptions, settings: CliSettings, body: bytes) -> Choice:
    """As in `hades dev`; but a Docker without the job's images gives way to the sandbox."""
    choice = choose_executor(options, settings)
    if choice.executor != "docker" or choice.asked_for:
        return choice
    images = [step["image"] for step in json.loads(body)["steps"]]
    with Engine(settings.docker_host) as engine:
        why = engine.obtain(images, timeout=_PULL_TIMEOUT)
    return Choice(executor="sandbox", why=f"Docker is there, but {why}") if why else choice


@contextmanager
def _data_dir(wanted: Path) -> Iterator[Path]:
    if wanted != Path():
        yield wanted
        return
    with TemporaryDirectory(prefix="hades-demo-") as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)  # steps of the sandbox run as a user of their own
        yield directory


class _LogFiles:
    """What each program prints, in a file of its own; callable from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = Lock()

    def __call__(self, name: str, line: str) -> None:
        with self._lock, self._file(name).open("a") as log:
            log.write(line + "\n")

    def tails(self, names: tuple[str, ...]) -> str:
        """The last lines of each, each on a line of its own and under its program's name."""
        lines = [f"\n{name} | {line}" for name in names for line in self._last(name)]
        return "".join(lines)

    def _last(self, name: str) -> list[str]:
        file = self._file(name)
        return file.read_text().splitlines()[-_TAIL:] if file.exists() else []

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.log"
