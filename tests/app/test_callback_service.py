"""Callbacks from the outbox to the receiver, by real processes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.launch import ROOT
from brokers import subjects
from brokers.callbacks.queue import CallbackQueue, open_callbacks
from brokers.embedded import EmbeddedNats
from brokers.settings import NatsSettings
from executors.job import JobState
from tests.acceptance.processes import until
from tests.app.receivers import Handler, Receiver, Request, answer, receiving

SECRET = b"a" * 32
TIME = "2026-01-01T00:00:00.000000Z"
HADES = (sys.executable, "-P", str(ROOT / "app/launch.py"))
GUNICORN = (sys.executable, "-P", "-m", "gunicorn", "--worker-class", "gthread", "--bind")


@dataclass(frozen=True, kw_only=True)
class Record:
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = "n"
    state: JobState = JobState.SUCCEEDED
    reason: str = ""
    attempt: int = 1
    queued_at: str = TIME
    started_at: str = TIME
    finished_at: str = TIME
    callbacks: bool = True


@dataclass(frozen=True)
class Site:
    url: str
    directory: Path
    queue: CallbackQueue

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "PYTHONPATH": str(ROOT),
            "NATS_URL": self.url,
            "HADES_CALLBACK_BACKOFF": "20ms",
            "HADES_CALLBACK_SECRETS": "whsec_" + base64.b64encode(SECRET).decode(),
            **variables,
        }

    def ended(self, receiver: Receiver) -> Record:
        record = Record()
        url = receiver.url.replace("//", "//user:s3cret@") + "?token=s3cret"
        self.queue.targets.put(record.id, url, url)
        self.queue.ended(record)
        return record

    def hades(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HADES, "callbacks", *arguments],
            env=self.environment({}),
            cwd=self.directory,
            capture_output=True,
            text=True,
        )

    def both_dead(self) -> list[str]:
        """What `hades callbacks dead` says once both callbacks of a job are dead."""
        until(lambda: len(self.queue.dead()) == 2, "both callbacks are dead")
        return self.hades("dead").stdout.splitlines()

    @contextmanager
    def process(self, *argv: str, **variables: str) -> Iterator[Path]:
        """Running within the block; then it ends cleanly. Its output is in the file."""
        log = self.directory / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                argv,
                env=self.environment(variables),
                cwd=self.directory,
                stdout=file,
                stderr=file,
            )
        try:
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def site(own_server: EmbeddedNats, tmp_path: Path) -> Iterator[Site]:
    settings = NatsSettings(url=own_server.url)
    connection = settings.connect()
    queue = open_callbacks(settings, connection)
    yield Site(own_server.url, tmp_path, queue)
    queue.close()
    connection.close()


def verify(request: Request) -> None:
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    digest = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"


@pytest.mark.parametrize(
    "argv", [(*HADES, "callbacks"), (*GUNICORN, "127.0.0.1:0", "app.factory:logs()")]
)
def test_a_receiver_that_comes_to_itself_gets_everything_signed(
    site: Site, argv: tuple[str, ...]
) -> None:
    with receiving(500, 500, 500, 200) as receiver:
        record = site.ended(receiver)
        with site.process(*argv, HADES_CALLBACK_ALLOW="127.0.0.0/8") as log:
            came = [receiver.next() for _ in range(5)]
    for request in came:
        verify(request)
        assert request.headers["X-Hades-Job-Id"] == record.id
        assert request.path == "/hook?token=s3cret"
    bodies = {request.headers["X-Hades-Event"]: json.loads(request.body) for request in came}
    assert bodies["job.logs"] == []
    assert bodies["job.completed"]["status"] == "Succeeded"
    assert "s3cret" not in log.read_text()


def test_what_was_refused_is_listed_and_replayed_when_it_is_allowed(site: Site) -> None:
    with receiving(200) as receiver:
        record = site.ended(receiver)
        with site.process(*HADES, "callbacks"):
            listed = site.both_dead()
        assert receiver.arrived.empty()
        ids = [line.split("\t")[0] for line in listed]
        assert all(each.startswith(record.id) for each in ids)
        assert all("127.0.0.1: not a public address" in line for line in listed)
        assert "s3cret" not in "".join(listed)

        assert site.hades("replay").returncode == 2
        unknown = site.hades("replay", "unknown")
        assert (unknown.returncode, unknown.stderr) == (1, "Error: 1 not found\n")
        assert site.hades("replay", ids[0]).stdout == "1 will be sent again\n"
        assert site.hades("replay", "--all").stdout == "1 will be sent again\n"
        with site.process(*HADES, "callbacks", HADES_CALLBACK_ALLOW="127.0.0.1"):
            for _ in ids:
                verify(receiver.next())
    assert site.hades("dead").stdout == ""


def test_a_log_manager_without_threads_sends_nothing(site: Site) -> None:
    with receiving(200) as receiver:
        site.ended(receiver)
        quiet = {"HADES_CALLBACK_ALLOW": "*", "HADES_CALLBACK_THREADS": "0"}
        with site.process(*GUNICORN, "127.0.0.1:0", "app.factory:logs()", **quiet) as log:
            until(lambda: "Booting worker" in log.read_text(), "a worker of gunicorn is there")
            with site.process(*HADES, "callbacks", HADES_CALLBACK_ALLOW="*"):
                receiver.next(), receiver.next()
        assert receiver.arrived.empty()


def test_what_is_under_way_when_the_log_manager_is_to_end_is_finished_and_acknowledged(
    site: Site,
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def take_time(handler: Handler) -> None:
        asked.set()
        answered.wait(20)
        answer(200)(handler)

    with receiving(take_time) as receiver:
        record = Record()
        site.queue.targets.put(record.id, "", receiver.url)
        site.queue.ended(record)
        argv = (*GUNICORN, "127.0.0.1:0", "app.factory:logs()")
        with site.process(*argv, HADES_CALLBACK_ALLOW="*") as log:
            assert asked.wait(20)
            threading.Timer(1.0, answered.set).start()
        stats = site.queue._broker.get_queue_stats()[subjects.CALLBACK_QUEUE]
        assert stats.unfinished == 0, log.read_text()
        assert receiver.arrived.qsize() == 1


def test_a_wrong_setting_is_told_in_one_line(site: Site) -> None:
    result = subprocess.run(
        [*HADES, "callbacks"],
        env=site.environment({"HADES_CALLBACK_ALLOW": "10.0.0.0/99"}),
        cwd=site.directory,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Error: HADES_CALLBACK_ALLOW: '10.0.0.0/99' is neither")
