"""A worker with the dummy executor on a real nats-server, in this process."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any, Self

from dramatiq import Worker
from nats.js.errors import NotFoundError

from brokers import subjects
from brokers.control import Control
from brokers.events import Events
from brokers.job_store import FOREVER
from brokers.log_reader import LogMessage, LogReader
from brokers.payloads import PayloadStore
from brokers.queue import JobQueue
from brokers.records import JobRecord, StepState
from brokers.settings import NatsSettings
from executors.dummy import DummyExecutor
from executors.job import Job, JobState, Step
from executors.redaction import Redactor
from workers import main
from workers.settings import WorkerSettings

LOG_LIMIT = 1 << 20
MAX_ATTEMPTS = 3
GRACE_SECONDS = 30.0


class Site:
    """A queue of its own, and everything around it; workers are started as they are needed."""

    def __init__(self, url: str, *, namespace: str = "") -> None:
        self.url = url
        self.namespace = namespace or f"w{uuid.uuid4().hex[:8]}"
        nats = NatsSettings(url=url, ack_wait=2.0, max_deliver=MAX_ATTEMPTS)
        settings = WorkerSettings(
            name=f"w-{uuid.uuid4().hex[:8]}",
            log_limit=LOG_LIMIT,
            concurrency=1,
            port=0,
            grace=GRACE_SECONDS,
            debug=False,
        )
        self.executor = DummyExecutor()
        self.process = main.Worker(
            self.executor, settings, nats, Redactor(), namespace=self.namespace
        )
        self.process.declare(pull_timeout=60.0)
        self.broker = self.process.broker
        self.connection = self.process.connection
        self.drain = self.process.drain
        self.guard = self.process.guard
        self.store = self.process.store
        self.runner = self.process.runner
        self.control = Control(self.connection)
        self.events = Events(self.connection, max_age=3600)
        self.reader = LogReader(self.connection, self.store, self.events)
        self.payloads = PayloadStore(self.connection, max_age=3600, patience=FOREVER)
        self.queue = JobQueue(self.broker, self.store, self.events, self.payloads, Redactor().job)
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, threads: int = 1) -> Worker:
        worker = Worker(self.broker, worker_timeout=100, worker_threads=threads)
        worker.queue_prefetch = threads
        worker.start()
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        self.broker.close()
        self.connection.close()

    def run(self, *scripts: str, **fields: Any) -> JobRecord:
        """Put a job with these steps on the queue, and return its record when it has ended."""
        job = job_of(*scripts, **fields)
        self.queue.put(job)
        if not self._workers:
            self.start()
        return self.ended(job.id)

    def running(self, job_id: str) -> JobRecord:
        """Wait until its first step runs."""
        for item in self.reader.follow(job_id):
            if isinstance(item, JobRecord) and item.steps[0].state is StepState.RUNNING:
                return item
        raise AssertionError("the job ended before anybody saw it run")

    def until(self, job_id: str, state: JobState, *, attempt: int = 0) -> JobRecord:
        """Wait for a record with this state, of this attempt or a later one."""
        for item in self.reader.follow(job_id):
            if isinstance(item, JobRecord) and item.state is state and item.attempt >= attempt:
                return item
        raise AssertionError(f"the job was never {state}")

    def ended(self, job_id: str) -> JobRecord:
        *_, record = self.reader.follow(job_id)
        assert isinstance(record, JobRecord)
        assert record.state.final
        return record

    def idle(self) -> None:
        """Wait until no message is on the queue: whatever a job's end entails has happened."""
        self.broker.join(subjects.QUEUE, timeout=60_000)

    def lines(self, job_id: str) -> list[str]:
        messages = self.reader.read(job_id)
        return [entry["message"] for entry in entries_of(messages)]

    def stored(self, stream: str, subject: str = ">") -> list[tuple[str, bytes]]:
        """Subject and body of every message, in order."""

        async def read() -> list[tuple[str, bytes]]:
            found: list[tuple[str, bytes]] = []
            sequence = 1
            with suppress(NotFoundError):
                while True:
                    message = await self.connection.jetstream.get_msg(
                        stream, sequence, subject=subject, next=True, direct=True
                    )
                    found.append((str(message.subject), message.data or b""))
                    sequence = int(message.seq or 0) + 1
            return found

        return self.connection.run(read())

    def states(self, job_id: str) -> list[str]:
        """What was told of the job's life, in order."""
        return [
            subject.rsplit(".", 1)[-1]
            for subject, body in self.stored(subjects.STATUS_STREAM)
            if body.decode() == job_id
        ]


def entries_of(messages: list[LogMessage]) -> list[dict[str, str]]:
    return [entry for message in messages for entry in message.body["logs"] or []]


def job_of(*scripts: str, **fields: Any) -> Job:
    steps = tuple(
        Step(id=number, image="i", script=script) for number, script in enumerate(scripts, 1)
    )
    return Job(**{"id": str(uuid.uuid4()), "name": "a job", "steps": steps, **fields})
