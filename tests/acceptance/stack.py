"""The house's real programs around one NATS server.

with Stack(directory, "docker") as stack:       NATS, the API and the log manager are ready
    stack.start_worker(concurrency=2)           returns when the worker is ready
    job_id = stack.submit(job)
    stack.wait_final(job_id)
    stack.settle()                              the workers have cleaned up, too
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.client import HadesClient, LogLine, StateChange
from app.dev import WORKER_READY
from brokers.embedded import EmbeddedNats
from tests.acceptance import leftovers
from tests.acceptance.processes import HADES, Process, base_environment, free_port
from tests.acceptance.witness import Witness

ACK_WAIT = 5.0
"""Seconds: short, so that the loss of a worker is noticed soon."""


class Stack:
    """One installation. Environment variables given as `env` are for all of its programs."""

    def __init__(self, directory: Path, executor: str, **env: str) -> None:
        """`directory` is for the data of all programs; the sandbox's steps must reach it."""
        self.executor = executor
        self.directory = directory
        self.data_dir = directory / "hades"
        self.nats = EmbeddedNats(directory / "nats")
        self.submitted: list[str] = []
        self.workers: list[Process] = []
        self._env = env
        self._api_port, self._logs_port = free_port(), free_port()
        self._programs: list[Process] = []
        self._shown: dict[Process, int] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            cleanup.enter_context(self.nats)
            cleanup.callback(self._stop_all)
            self.start_logs()
            self.start_api()
            self.witness = Witness(self.nats.url)
            cleanup.callback(self.witness.close)
            self._client = cleanup.enter_context(
                HadesClient(api_url=self.api_url, logs_url=self.logs_url)
            )
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    # Programs

    @property
    def api_url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._api_port}"

    @property
    def logs_url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._logs_port}"

    def start_api(self) -> None:
        """Returns when it answers; always on the same port."""
        self.api = self._start("api", API_PORT=str(self._api_port), WEB_CONCURRENCY="1")
        self.api.await_answer(f"{self.api_url}/ping")

    def start_logs(self) -> None:
        """Returns when it answers; always on the same port."""
        self.logs_manager = self._start("logs", HADESLOGMANAGER_API_PORT=str(self._logs_port))
        self.logs_manager.await_answer(f"{self.logs_url}/health")

    def start_worker(self, concurrency: int = 1) -> Process:
        """Returns when it takes jobs."""
        worker = self._start("worker", CONCURRENCY=str(concurrency))
        self.workers.append(worker)
        worker.await_line(WORKER_READY)
        return worker

    def stop_workers(self, kept: int = 0) -> None:
        """End all at once, but for the first that were started."""
        for worker in self.workers[kept:]:
            worker.terminate()
        while len(self.workers) > kept:
            self.workers.pop().stop()

    def _start(self, name: str, *, program: Sequence[str] = (), **env: str) -> Process:
        """`hades NAME`, or another program."""
        process = Process(
            name,
            *(() if program else (name,)),
            directory=self.directory,
            environment={**self.environment, **env},
            program=program or HADES,
        )
        self._programs.append(process)
        return process

    @property
    def environment(self) -> dict[str, str]:
        """What every program of this installation is given."""
        return {
            "NATS_URL": self.nats.url,
            "HADES_EXECUTOR": self.executor,
            "HADES_INDEX_DIR": str(self.directory / "index"),
            "HADES_DATA_DIR": str(self.data_dir),
            "NATS_ACK_WAIT": f"{ACK_WAIT:g}s",
            **self._env,
        }

    def _stop_all(self) -> None:
        self.stop_workers()
        while self._programs:
            self._programs.pop().stop()

    def hades(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            (*HADES, *arguments),
            cwd=self.directory,
            env={**base_environment(), **self.environment},
            capture_output=True,
            text=True,
        )

    def recent(self, *, forget: bool = False) -> str:
        """What the programs have printed since this was last asked for with `forget`."""
        news = []
        for program in self._programs:
            start = self._shown.get(program, 0)
            news += [f"{program.name} | {line}" for line in program.lines[start:]]
            if forget:
                self._shown[program] = len(program.lines)
        return "\n".join(news)

    def printed(self) -> str:
        """All that the programs, also those that have ended, have ever printed."""
        return "\n".join(line for program in self._programs for line in program.lines)

    # Jobs

    def submit(self, job: Mapping[str, Any] | Path) -> str:
        """Post a job, or the file that holds it; its id."""
        body = job.read_bytes() if isinstance(job, Path) else json.dumps(job).encode()
        job_id = self._client.submit(body)
        self.submitted.append(job_id)
        return job_id

    def follow(self, job_id: str) -> Iterator[LogLine | StateChange]:
        """The job's lines and states as they come, through server-sent events."""
        return self._client.follow(job_id)

    def wait_final(self, job_id: str) -> StateChange:
        """The job's end."""
        *_, end = self.follow(job_id)
        assert isinstance(end, StateChange) and end.final
        return end

    def await_output(self, job_id: str, line: str) -> None:
        """Until the job has printed this line."""
        for event in self.follow(job_id):
            if isinstance(event, LogLine) and event.message == line:
                return
        raise AssertionError(f"the job ended without saying {line!r}")

    def run(self, job: Mapping[str, Any] | Path) -> tuple[str, StateChange]:
        """Submit, wait, settle: the job's id and its end."""
        job_id = self.submit(job)
        end = self.wait_final(job_id)
        self.settle()
        return job_id, end

    def settle(self) -> None:
        """Until the queue is empty and the workers have cleaned up."""
        self.witness.settle()

    def steps(self, job_id: str) -> list[list[str]]:
        """The job's log lines, step by step."""
        slots = self.get(f"/jobs/{job_id}/logs")["logs"]
        return [[entry["message"] for entry in slot["logs"]] for slot in slots]

    def lines(self, job_id: str) -> list[str]:
        """The lines of all steps."""
        return [line for step in self.steps(job_id) for line in step]

    def status(self, job_id: str) -> str:
        """The job's state, as the log manager has it."""
        return str(self.get(f"/jobs/{job_id}/status")["status"])

    def get(self, path: str) -> Any:
        """The JSON that the log manager answers with."""
        return httpx.get(self.logs_url + path, timeout=10.0).raise_for_status().json()

    def leftovers(self) -> list[str]:
        """What the jobs submitted so far have left behind on this machine."""
        found = [
            *leftovers.in_workspaces(self.data_dir),
            *leftovers.processes(self.submitted, self.data_dir),
        ]
        if self.executor == "docker":
            found += leftovers.in_engine(self.submitted, self._env.get("DOCKER_HOST", ""))
        return found
