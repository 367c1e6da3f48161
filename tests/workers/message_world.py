"""A queue, workers and clients without a server: each request waits until the test lets it go on.

All of the product's decisions are the real ones: JobQueue, JobStore, ExecutorMiddleware, Runner.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from dramatiq import Message
from dramatiq.middleware import SkipMessage

from brokers.events import Events
from brokers.job_store import HISTORY, JobStore
from brokers.nats import NatsBroker
from brokers.nats.held import ACK
from brokers.nats.messages import NatsMessage
from brokers.nats.protocol import Arrival
from brokers.payloads import PayloadStore
from brokers.queue import JobQueue
from brokers.records import JobRecord
from executors.base import Executor, Sink, StepResult, Workspace
from executors.errors import InfrastructureError
from executors.job import Job, JobState, Retry, Step
from executors.redaction import Redactor
from executors.stopping import Stopping
from tests.brokers.interleaving import patiently, request
from tests.brokers.memory_bucket import MemoryBucket, NoConnection
from workers.attempts import Attempts, StopCause
from workers.middleware import ExecutorMiddleware
from workers.runner import Runner

MAX_ATTEMPTS = 3


def asked(act: Any) -> Any:
    """One request, repeated until it is answered."""
    return patiently(lambda: request(act))


class MemoryQueue:
    """Stands for the broker: what is acknowledged is gone, what is left comes again."""

    def __init__(self) -> None:
        self.connection = NoConnection()
        self.messages: dict[int, Message[Any]] = {}
        self.settling = False
        """Whether a worker is done with a message, but for the last word."""
        self._ids: dict[str, int] = {}

    def check_length(self, queue: str) -> None:
        """There is always room."""

    def store(self, messages: Sequence[Message[Any]], after: Sequence[object] = ()) -> list[int]:
        return cast("list[int]", asked(lambda: [self._store(message) for message in messages]))

    def _store(self, message: Message[Any]) -> int:
        if message.message_id not in self._ids:
            self._ids[message.message_id] = number = len(self._ids) + 1
            self.messages[number] = message
        return self._ids[message.message_id]

    def remove(self, sequence: int) -> None:
        asked(lambda: self.messages.pop(sequence, None))

    def contains(self, sequence: int) -> bool:
        return bool(asked(lambda: sequence in self.messages))

    def settle(self, sequence: int, verdict: bytes | None) -> None:
        self.settling = True
        if verdict == ACK:
            asked(lambda: self.messages.pop(sequence, None))
        self.settling = False


class Told:
    """Stands for the events."""

    def __init__(self) -> None:
        self.ends: list[JobRecord] = []

    def changed(self, record: JobRecord) -> None:
        asked(lambda: None)

    def declare(self) -> None:
        asked(lambda: None)

    def tell_listeners(self, records: Sequence[JobRecord]) -> None:
        asked(lambda: None)

    def status(self, record: JobRecord) -> None:
        """Of no interest here, like a log."""

    def ended(self, record: JobRecord, *, log_complete: bool = True) -> None:
        asked(lambda: self.ends.append(record))

    def log(self, batch: object) -> None:
        """Of no interest."""


@dataclass
class ScriptedWorkspace(Workspace):
    """A step takes one request's time, and then does what the world wants."""

    world: World
    stopping: Stopping = field(default_factory=Stopping)

    def prepare(self, step: Step, sink: Sink, timeout: float | None) -> None:
        self.stopping.check()

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        with self.stopping.heeded():
            asked(lambda: None)
            outcome = self.world.outcome
            if outcome == "broken":
                raise InfrastructureError("no disk")
            return StepResult(exit_code=0 if outcome == "good" else 1)

    def stop(self) -> None:
        self.stopping.stop()


class ScriptedExecutor(Executor):
    """Counts what is open."""

    name = "scripted"

    def __init__(self, world: World) -> None:
        self.world = world
        self.open_now: dict[int, str] = {}

    def check(self) -> None:
        """Always ready."""

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        assert attempt not in self.open_now, "two attempts have one number"
        self.open_now[attempt] = job.id
        try:
            yield ScriptedWorkspace(self.world)
        finally:
            del self.open_now[attempt]

    def reap(self, job_id: str) -> None:
        assert job_id not in self.open_now.values(), "it is in use"

    def reap_orphans(self) -> int:
        return 0


class Process:
    """One worker process with one thread."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = f"{name}-{uuid.uuid4().hex[:6]}"
        self.attempts = Attempts()
        self.executor = ScriptedExecutor(world)
        runner = Runner(world.store, cast(Events, world.told), log_limit=1000)
        self.middleware = ExecutorMiddleware(
            self.executor,
            world.store,
            world.payloads,
            cast(Any, world),
            runner,
            self.attempts,
            worker=self.name,
            max_attempts=MAX_ATTEMPTS,
            machine_is_broken=lambda: False,
        )
        self.runner = runner

    def work(self, sequence: int) -> None:
        """What Dramatiq does with one delivery."""
        body = self.world.queue.messages[sequence]
        arrival = Arrival("q", 1, f"$JS.ACK.s.c.1.{sequence}.1.0.0", b"", b"")
        message = NatsMessage(body, arrival, cast(Any, None))
        error = None
        try:
            self.middleware.before_process_message(cast(Any, None), message)
        except SkipMessage:
            self.middleware.after_skip_message(cast(Any, None), message)
        else:
            try:
                self.runner.run(self.middleware.attempt())
            except Exception as raised:
                error = raised
            self.middleware.after_process_message(cast(Any, None), message, exception=error)
        assert not message.failed, "the message carries no job"
        self.world.queue.settle(sequence, message.verdict)

    def watch(self) -> None:
        """Look at the records, as the watcher does."""
        for attempt in self.attempts.all():
            if not self.world.store.is_current(attempt.lease):
                attempt.stop(StopCause.LOST)


class World:
    """One job and everything around it."""

    def __init__(self) -> None:
        self.records = MemoryBucket(history=HISTORY)
        self.pieces = MemoryBucket()
        self.store = JobStore(NoConnection(), max_age=0)
        self.store._bucket = cast(Any, self.records)
        self.payloads = PayloadStore(NoConnection(), max_age=0)
        self.payloads._bucket = cast(Any, self.pieces)
        self.told = Told()
        self.queue = MemoryQueue()
        self.outcome = "good"
        self.hears = True
        """Whether workers hear each other."""
        self.refusals: list[tuple[Sequence[JobRecord], str]] = []
        self.clients = JobQueue(
            cast(NatsBroker, self.queue),
            self.store,
            cast(Events, self.told),
            self.payloads,
            Redactor().job,
        )
        self.clients._control = cast(Any, self)
        self.clients._refuse = self._refuse  # type: ignore[method-assign]
        self.processes = {name: Process(self, name) for name in "AB"}
        self.job = Job(
            id=str(uuid.uuid4()),
            name="j",
            steps=(Step(image="i"), Step(image="i", id=2)),
            retry=Retry(max=1),
        )

    def _refuse(self, records: Sequence[JobRecord], error: Exception) -> None:
        self.refusals.append((records, "refused"))

    # As Control

    def hint(self, job_id: str) -> None:
        """Nobody hears it: `watch` looks by itself."""

    def holds(self, worker: str, job_id: str, attempt: int) -> bool:
        return self.hears and any(
            process.name == worker and process.attempts.holds(job_id, attempt)
            for process in self.processes.values()
        )

    # For a look from outside

    def record(self) -> JobRecord | None:
        value = self.records.get(self.job.id).value
        return None if value is None else JobRecord.from_dict(json.loads(value))

    def payloads_left(self) -> list[object]:
        return [key for key in self.pieces.tuples() if "whole" in key]

    def ends(self) -> list[JobRecord]:
        """Final revisions."""
        return [each for _, each in self.store.history(self.job.id) if each.state.final]


FINAL = {state for state in JobState if state.final}
