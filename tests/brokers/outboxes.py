"""An outbox on a real server, and receivers whose answers are a script."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue

from brokers import subjects
from brokers.callbacks.backoff import Backoff
from brokers.callbacks.loop import Limits
from brokers.callbacks.messages import Delivery, Outcome, Verdict
from brokers.callbacks.queue import CallbackQueue
from brokers.callbacks.targets import CallbackTargets
from brokers.nats import NatsBroker
from brokers.nats.connection import NatsConnection
from executors.job import JobState

LOGS_URL = "http://user:s3cret@logs.example/hook?token=s3cret#s3cret"
STATUS_URL = "https://status.example/hook?token=s3cret"
QUICK = Backoff(first=0.05, longest=0.1, busy=0.05)
DELIVERED = Outcome(verdict=Verdict.DELIVERED)
AGAIN = Outcome(verdict=Verdict.AGAIN, reason="the receiver answered 500")
NEVER = Outcome(verdict=Verdict.NEVER, reason="the receiver answered 410")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the outbox reads of a job's record."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = "n"
    state: JobState = JobState.SUCCEEDED
    reason: str = ""
    attempt: int = 1
    queued_at: str = "2026-01-01T00:00:00.000000Z"
    started_at: str = "2026-01-01T00:00:01.000000Z"
    finished_at: str = "2026-01-01T00:00:02.000000Z"
    callbacks: bool = True


class Receiver:
    """Delivers by a script, of which the last part is played for ever."""

    def __init__(self, *script: Outcome | Exception) -> None:
        self.script = list(script) or [DELIVERED]
        self.came: Queue[Delivery] = Queue()
        self.lock = threading.Lock()

    def __call__(self, delivery: Delivery) -> Outcome:
        with self.lock:
            part = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            self.came.put(delivery)
        if isinstance(part, Exception):
            raise part
        return part

    def next(self) -> Delivery:
        return self.came.get(timeout=20)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Site:
    """An outbox of its own; `fresh` is what another process has of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"t{uuid.uuid4().hex[:10]}"
        self.clock = Clock()
        self.open: list[Callable[[], None]] = []
        self.queue = self.fresh()

    def fresh(self, backoff: Backoff = QUICK) -> CallbackQueue:
        connection = NatsConnection(self.url)
        broker = NatsBroker(
            connection=connection,
            namespace=self.namespace,
            max_priority=2,
            ack_wait=2.0,
            middleware=[],
        )
        targets = CallbackTargets(connection, max_age=3600)
        queue = CallbackQueue(broker, targets, backoff=backoff, clock=self.clock)
        self.broker = broker
        self.open += [connection.close, queue.close]
        return queue

    def close(self) -> None:
        for close in reversed(self.open):
            close()

    def job(self, logs: str = LOGS_URL, status: str = STATUS_URL, **facts: object) -> Record:
        record = Record(**facts)
        self.queue.targets.put(record.id, logs, status)
        return record

    def idle(self) -> None:
        """Wait until nothing is to be delivered any more."""
        self.broker.join(subjects.CALLBACK_QUEUE, timeout=20_000)


@contextmanager
def running(
    queue: CallbackQueue, receiver: Callable[[Delivery], Outcome], limits: Limits | None = None
) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(
        target=queue.run, args=(receiver, stop), kwargs={"limits": limits or Limits(threads=4)}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
