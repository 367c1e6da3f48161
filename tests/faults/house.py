"""An installation for faults: all that is needed to break it, and to check it afterwards.

with FaultHouse(directory, "docker") as house:
    job_id = house.post(job(ticking(2)))
    ...
    house.check()               every job that was ever posted is over, and all rules hold
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.cli_settings import CliSettings
from app.commands import WORKER_BROKER, web_command, worker_command
from app.dev import WORKER_READY
from brokers.records import JobRecord
from tests.acceptance.processes import Process, free_port, until
from tests.acceptance.stack import Stack
from tests.brokers.fault_workers import Gate
from tests.brokers.journal import Journal
from tests.faults.checker import violations
from tests.faults.lookout import Lookout
from tests.faults.phases import Phase
from tests.faults.postbox import Postbox, receiving
from tests.faults.replay import Replay, lives_in
from tests.faults.story import Answer, JobStory, Story

ACK_WAIT = 3.0
HALTING = "tests.faults.halting_worker:setup"
HALTING_API = "tests.faults.halting_api:api()"
KINDS = {"callback_url": "logs", "status_callback_url": "status"}
SETTLE_SECONDS = 60.0

QUICK_CALLBACKS = {
    "HADES_CALLBACK_ALLOW": "127.0.0.1",
    "HADES_CALLBACK_BACKOFF": "200ms",
    "HADES_CALLBACK_MAX_BACKOFF": "2s",
    "HADES_CALLBACK_MAX_AGE": "8s",
}


class FaultHouse(Stack):
    """A Stack that remembers what was asked of it, and with which answer."""

    def __init__(self, directory: Path, executor: str, **env: str) -> None:
        plain = {"NATS_ACK_WAIT": f"{ACK_WAIT:g}s", "HADES_SANDBOX_HOST_LOOPBACK": "true"}
        super().__init__(directory, executor, **{**plain, **QUICK_CALLBACKS, **env})
        self.journal = Journal(directory / "journal")
        self.gate = Gate(directory / "gate")
        self.lookout = Lookout()
        self.answers: dict[str, Answer] = {}
        """Of each job, by its name."""
        self.wanted: dict[str, frozenset[str]] = {}
        self._ports: dict[Process, int] = {}
        self._checked: set[str] = set()
        self._outer = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            cleanup.callback(self.gate.close)
            self.postbox: Postbox = cleanup.enter_context(receiving())
            cleanup.enter_context(self.lookout)
            super().__enter__()
            cleanup.callback(super().__exit__, None, None, None)
            self.replay = Replay(self.nats.url, ACK_WAIT)
            cleanup.callback(self.replay.close)
            self._outer = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._outer.close()

    # Programs

    def worker(self, concurrency: int = 1, **env: str) -> Process:
        """A worker that has a port of its own for probes; returns when it is up."""
        return self._up(concurrency, env)

    def halting_worker(self, concurrency: int = len(Phase), **env: str) -> Process:
        """One that halts where jobs ask for it, for as long as the gate is shut."""
        return self._other_worker(HALTING, concurrency, self._faults | env)

    def _other_worker(self, setup: str, concurrency: int, env: Mapping[str, str]) -> Process:
        grace = float(env.get("HADES_SHUTDOWN_TIMEOUT", CliSettings().shutdown_timeout))
        command = worker_command(CliSettings(concurrency=concurrency, shutdown_timeout=grace))
        program = [setup if part == WORKER_BROKER else part for part in command.argv]
        return self._up(concurrency, {**command.env, **env}, program)

    def start_halting_api(self) -> None:
        """In place of the API, at its port."""
        self.api = self._web("api", HALTING_API, self.api_url, self._faults)
        self.api.await_answer(f"{self.api_url}/ping")

    def _web(self, name: str, app: str, url: str, env: Mapping[str, str]) -> Process:
        bind = url.removeprefix("http://")
        command = web_command(app, bind=bind, processes=1, threads=16)
        return self._start(name, program=command.argv, **{**command.env, **env})

    @property
    def _faults(self) -> dict[str, str]:
        return {"FAULT_JOURNAL": str(self.journal.path), "FAULT_GATE": str(self.gate.path)}

    def kill_workers(self) -> None:
        """What is quicker than to ask them, when nothing is left to do."""
        while self.workers:
            worker = self.workers.pop()
            if worker.alive:
                worker.kill()

    def _up(self, concurrency: int, env: Mapping[str, str], program: Iterable[str] = ()) -> Process:
        port = free_port()
        own = {"CONCURRENCY": str(concurrency), "HADES_WORKER_PORT": str(port)}
        worker = self._start("worker", program=tuple(program), **{**env, **own})
        self._ports[worker] = port
        self.workers.append(worker)
        worker.await_line(WORKER_READY)
        return worker

    def holder(self, job_id: str) -> Process:
        """The worker that runs the job: its name ends with its process's number."""
        pid = int(self.record(job_id).worker.rpartition("-")[2])
        [found] = [each for each in self.workers if each.alive and pid in each.children()]
        return found

    def probe(self, worker: Process, path: str) -> httpx.Response:
        """What the worker answers."""
        return httpx.get(f"http://127.0.0.1:{self._ports[worker]}{path}", timeout=10.0)

    def paused(self, worker: Process) -> str:
        """Why the worker takes no jobs, as it says itself; empty: it does."""
        answer = self.probe(worker, "/readyz")
        return "" if answer.is_success else str(self.probe(worker, "/status").json()["reason"])

    def shown_workers(self) -> list[tuple[str, str]]:
        """State and reason of each worker, as the API has them."""
        found = httpx.get(f"{self.api_url}/v1/workers", timeout=10.0).raise_for_status().json()
        return [(each["state"], each["reason"]) for each in found["workers"]]

    def idle(self, worker: Process) -> bool:
        """Whether it runs nothing."""
        return bool(self.probe(worker, "/status").json()["busy"] == 0)

    # Jobs

    def ask(self, body: Mapping[str, Any], path: str = "/v1/jobs", **headers: str) -> Any:
        """Post a job, and note the answer; None: there was none."""
        name = body["name"]
        self.wanted[name] = frozenset(KINDS[key] for key in KINDS if body.get(key))
        self.answers.setdefault(name, Answer.NONE)
        try:
            answer = httpx.post(self.api_url + path, json=body, headers=headers, timeout=60.0)
        except httpx.HTTPError:
            return None
        if answer.is_success:
            self.answers[name] = Answer.ACCEPTED
            job_id = answer.json().get("id") or answer.json()["job_id"]
            if job_id not in self.submitted:
                self.submitted.append(job_id)
        elif self.answers[name] is Answer.NONE:
            self.answers[name] = Answer.REFUSED
        return answer

    def post(self, body: Mapping[str, Any], **headers: str) -> str:
        """The id of a job that is accepted."""
        answer = self.ask(body, **headers)
        assert answer is not None and answer.is_success, answer and answer.text
        return str(answer.json()["id"])

    def calling(self, *answers: int) -> dict[str, str]:
        """Fields of a job that wants to be called, where the receiver answers so."""
        return dict.fromkeys(KINDS, self.postbox.url(*answers))

    def halted(self, phase: Phase, job_id: str) -> None:
        """Until the job's worker halts there."""
        self.journal.await_record(phase, by=lambda record: record.worker == job_id)

    def cancel(self, job_id: str) -> httpx.Response:
        """Whatever the API answers."""
        return httpx.post(f"{self.api_url}/v1/jobs/{job_id}/cancel", timeout=60.0)

    def record(self, job_id: str) -> JobRecord:
        """What is known of the job."""
        return self.witness.record(job_id)

    def until_attempt(self, job_id: str, attempt: int) -> None:
        """Until this attempt, or a later one, was claimed."""
        until(
            lambda: self.record(job_id).attempt >= attempt,
            f"{job_id} has come to attempt {attempt}",
            SETTLE_SECONDS,
        )

    def finish(self, *job_ids: str) -> list[JobRecord]:
        """The records of jobs that are over."""
        for job_id in job_ids:
            until(lambda job_id=job_id: self._over(job_id), f"{job_id} is over", SETTLE_SECONDS)  # type: ignore[misc]
        return [self.record(job_id) for job_id in job_ids]

    def _over(self, job_id: str) -> bool:
        return self.record(job_id).state.final

    # The end

    def settled(self) -> None:
        """Until all jobs are over, all callbacks told or given up, and all is cleaned up."""
        self.settle()
        until(lambda: not self.replay.open_callbacks(), "no callback waits", SETTLE_SECONDS)
        until(lambda: not self.leftovers(), "all is removed", SETTLE_SECONDS)

    def check(self) -> None:
        """Everything since it was last checked. Workers must be there to finish."""
        self.settled()
        story = self.story()
        self._checked |= {each.job_id for each in story.jobs}
        broken = violations(story)
        assert not broken, "\n".join(broken)

    def story(self) -> Story:
        """All that is known of all jobs that were not checked yet."""
        told, results = self.replay.told(), self.replay.results()
        dead = self.replay.dead_callbacks()
        known = {*self.submitted, *self.replay.job_ids(), *told, *results} - self._checked
        jobs = []
        for job_id in sorted(known):
            history, logs = self.replay.history(job_id), self.replay.logs(job_id)
            name = history["revisions"][0].name if history["revisions"] else ""
            accepted = Answer.ACCEPTED if job_id in self.submitted else Answer.NONE
            jobs.append(
                JobStory(
                    job_id=job_id,
                    answer=self.answers.get(name, accepted),
                    wanted=self.wanted.get(name, frozenset()),
                    told=told.get(job_id, ()),
                    results=results.get(job_id, ()),
                    attempts_with_logs=frozenset(logs),
                    lives=(lives_in(logs), self.lookout.lives(job_id)),
                    delivered=tuple(self.postbox.of(job_id)),
                    dead=frozenset(each for each in dead if each.startswith(job_id)),
                    **history,
                )
            )
        return Story(jobs=tuple(jobs), left=(*self.leftovers(), *self.replay.left()))
