"""REST v1 as it is served: by several processes, of which some die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.cli_settings import environment
from app.commands import web_command
from tests.acceptance.processes import parents, until

JOB = {"name": "job", "steps": [{"image": "alpine"}]}


class Api:
    """Some processes that serve the API."""

    def __init__(self, nats_url: str, directory: Path, processes: int) -> None:
        self.index_dir, self.fuse = directory / "index", directory / "fuse"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            bind = f"fd://{listening.fileno()}"
            command = web_command("v1_process:api()", bind=bind, processes=processes, threads=8)
            path = os.pathsep.join((command.env["PYTHONPATH"], str(Path(__file__).parent)))
            self._gunicorn = subprocess.Popen(
                command.argv,
                env=environment(
                    PYTHONPATH=path,
                    NATS_URL=nats_url,
                    HADES_INDEX_DIR=str(self.index_dir),
                    DIE_ONCE=str(self.fuse),
                ),
                stderr=subprocess.DEVNULL,
                pass_fds=(listening.fileno(),),
            )
            port = listening.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60)
        self._processes = processes
        until(lambda: len(self.workers()) == processes, "all processes are there")

    def workers(self) -> list[int]:
        return [pid for pid, parent in parents() if parent == self._gunicorn.pid]

    def writers(self) -> list[int]:
        """Which of them have the index's lock."""
        files = [file.stat().st_ino for file in self.index_dir.glob("*.lock")]
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        holders = {
            int(fields[4])
            for fields in held
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) in files
        }
        return [pid for pid in self.workers() if pid in holders]

    def submit(self) -> str:
        answer = self.client.post("/jobs", json=JOB)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def close(self) -> None:
        self.client.close()
        self._gunicorn.terminate()
        self._gunicorn.wait()


@pytest.fixture
def api(own_server, tmp_path) -> Iterator[Api]:
    api = Api(own_server.url, tmp_path, processes=2)
    yield api
    api.close()


def test_a_list_has_what_any_process_has_taken(api) -> None:
    for _ in range(30):  # each over a connection of its own, so any process answers
        job_id = httpx.post(f"{api.client.base_url}jobs", json=JOB).json()["id"]
        listed = httpx.get(f"{api.client.base_url}jobs?limit=1")
        assert "X-Hades-Index-Lag" not in listed.headers
        assert listed.json()["jobs"][0]["id"] == job_id


def test_another_process_writes_the_index_when_its_writer_is_killed(api) -> None:
    api.submit()
    until(lambda: len(api.writers()) == 1, "one process writes the index")
    (writer,) = api.writers()
    (other,) = set(api.workers()) - {writer}
    os.kill(writer, signal.SIGKILL)
    until(lambda: api.writers() not in ([], [writer]), "another process writes the index")
    job_ids = {api.submit() for _ in range(5)}
    listed = api.client.get("/jobs").json()["jobs"]
    assert job_ids < {job["id"] for job in listed}
    assert api.writers() != [writer]
    assert other in api.workers()


def test_a_request_is_healed_whose_process_was_killed_before_it_queued_anything(api) -> None:
    api.fuse.touch()
    headers = {"Idempotency-Key": "once"}
    with pytest.raises(httpx.HTTPError):
        api.client.post("/jobs", json=JOB, headers=headers)
    while (answer := api.client.post("/jobs", json=JOB, headers=headers)).status_code == 409:
        time.sleep(int(answer.headers["Retry-After"]))
    again = api.client.post("/jobs", json=JOB, headers=headers)
    assert (answer.status_code, again.status_code) == (202, 202)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert answer.json()["id"] == again.json()["id"]
    assert [job["id"] for job in api.client.get("/jobs").json()["jobs"]] == [answer.json()["id"]]
    assert api.client.get("/queue").json()["queued"] == 1
