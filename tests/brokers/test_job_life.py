"""A job's record under two workers and two clients whose requests are interleaved arbitrarily.

Every rule begins an operation, or lets one go on by a single request to NATS, whose answer may be
lost; processes die between two requests. `job_life` says what each write may be.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from brokers.job_store import HISTORY, JobStore, Lease
from brokers.nats import requester
from brokers.nats.buckets import Bucket, Entry
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed
from brokers.records import JobRecord, StepState
from brokers.transitions import HandBack
from executors.job import Job, JobState, Step
from tests.brokers.interleaving import Actor, Fate, Lost, request
from tests.brokers.job_life import Operation, check_end, check_write
from tests.brokers.memory_bucket import MemoryBucket, NoConnection

WORKERS = {"A": "A", "A too": "A", "B": "B"}
"""Threads, and the processes that they belong to."""
CLIENTS = ["one", "another"]
FINAL = [state for state in JobState if state.final]


class StillRunning(Exception):
    """Who runs the job has answered."""


class JobLife(RuleBasedStateMachine):
    """One job."""

    fates: tuple[Fate, ...] = (Fate.ANSWERED, Fate.REQUEST_LOST, Fate.ANSWER_LOST)
    impatient: tuple[Fate, ...] = (Fate.GIVEN_UP, Fate.NEVER_ASKED)

    def __init__(self) -> None:
        super().__init__()
        self.job = Job(
            id=str(uuid.uuid4()), name="j", steps=(Step(image="i"), Step(image="i", id=2))
        )
        self.bucket = self.open_bucket()
        self.store = JobStore(NoConnection(), max_age=0)
        self.store._bucket = self.bucket
        self.accepted: list[tuple[int, JobRecord]] = []
        self.busy: dict[str, Operation] = {}
        self.submitted = JobRecord.of(self.job)
        self.message = 1
        """Number of the last message that was put on the queue."""
        self.leases: dict[str, Lease] = {}
        self.current: Operation | None = None

    def open_bucket(self) -> Any:
        bucket = MemoryBucket(history=HISTORY)
        bucket.written = self.written
        return bucket

    # What happens

    @property
    def last(self) -> JobRecord | None:
        return self.accepted[-1][1] if self.accepted else None

    def written(self, key: object, entry: Entry) -> None:
        operation = self.current
        assert operation is not None and entry.value is not None
        record = JobRecord.from_dict(json.loads(entry.value))
        check_write(operation, self.last, record)
        self.accepted.append((entry.revision, record))
        operation.writes.append((record, entry.revision))
        for each in (*self.busy.values(), operation):
            each.met.add(record.state)

    def begin(self, operation: Operation, act: Callable[[], object], slot: str) -> None:
        operation.met.add(self.last.state if self.last else None)
        self.busy[slot] = operation
        self.current = operation
        operation.actor = Actor(slot, act)
        self.look_at(slot)

    def go_on(self, slot: str, fate: Fate) -> None:
        operation = self.current = self.busy[slot]
        assert operation.actor is not None
        operation.lost += fate is not Fate.ANSWERED
        operation.actor.step(fate)
        self.look_at(slot)

    def look_at(self, slot: str) -> None:
        operation = self.busy[slot]
        actor = operation.actor
        assert actor is not None
        if not actor.over:
            return
        del self.busy[slot]
        if isinstance(actor.error, AssertionError):
            raise actor.error
        check_end(operation, self.last)
        if operation.kind == "claim" and actor.result is not None:
            self.leases[slot] = actor.result
        over = operation.kind in ("finish", "give_back") or actor.error is not None
        if operation.lease is not None and over:
            self.leases.pop(slot, None)
        if operation.kind == "retry" and actor.result is not None:
            self.note(slot, actor.result)

    # Clients

    def idle_client(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([each for each in CLIENTS if each not in self.busy]))

    some_client_is_idle = precondition(lambda self: any(c not in self.busy for c in CLIENTS))

    @some_client_is_idle
    @precondition(lambda self: len(self.accepted) < 2)
    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        record = self.submitted.with_message(1)
        client = self.idle_client(data)
        self.begin(Operation(kind="submit", who=client), lambda: self.store.create(record), client)

    @some_client_is_idle
    @precondition(lambda self: self.accepted)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["retry", "retry", "retry", "stop", "withdraw", "abandon"]),
        back=st.integers(0, 2),
    )
    def ask_for(self, data: st.DataObject, kind: str, back: int) -> None:
        """`back`: so many changes ago the record was seen by who wants it abandoned."""
        if kind in ("stop", "abandon") and data.draw(st.integers(0, 2)):
            return  # rather let it live
        seen = self.accepted[max(0, len(self.accepted) - 1 - back)][1]
        acts: dict[str, Callable[[], object]] = {
            "stop": lambda: self.store.stop(self.job.id, "enough"),
            "retry": lambda: self.store.retry(self.job.id),
            "withdraw": lambda: self.store.withdraw(self.submitted, "refused"),
            "abandon": lambda: self.store.abandon(seen, "its message is gone"),
        }
        client = self.idle_client(data)
        self.begin(Operation(kind=kind, who=client, seen=seen), acts[kind], client)

    @some_client_is_idle
    @precondition(lambda self: not self.accepted)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        client = self.idle_client(data)
        self.begin(
            Operation(kind="withdraw", who=client),
            lambda: self.store.withdraw(self.submitted, "refused"),
            client,
        )

    def note(self, client: str, record: JobRecord) -> None:
        self.message += 1
        sequence = self.message
        self.begin(
            Operation(kind="note", who=client, seen=record),
            lambda: self.store.queued(record, sequence),
            client,
        )

    # Workers

    def idle_worker(self, data: st.DataObject, *, leased: bool) -> str:
        slots = [s for s in WORKERS if s not in self.busy and (s in self.leases) is leased]
        return data.draw(st.sampled_from(slots))

    some_worker_is_free = precondition(
        lambda self: any(s not in self.busy and s not in self.leases for s in WORKERS)
    )
    some_worker_has_a_lease = precondition(
        lambda self: any(s not in self.busy for s in self.leases)
    )

    @some_worker_is_free
    @rule(data=st.data(), hears=st.booleans(), old=st.sampled_from([0, 0, 0, 1, 2]))
    def claim(self, data: st.DataObject, hears: bool, old: int) -> None:
        """Nobody hears of a worker that is paused, or behind a broken network. The message is one
        of an `old` retry.
        """
        slot = self.idle_worker(data, leased=False)
        sequence = max(self.message - old, 0)

        def take_over(record: JobRecord) -> None:
            operation.asked.append(record.attempt)
            holders = [s for s, lease in self.leases.items() if lease.attempt == record.attempt]
            if hears and any(WORKERS[s] == record.worker for s in holders):
                raise StillRunning

        operation = Operation(kind="claim", who=WORKERS[slot], sequence=sequence)
        self.begin(
            operation,
            lambda: self.store.claim(
                self.job, WORKERS[slot], queue_seq=sequence, take_over=take_over
            ),
            slot,
        )

    def begin_with_lease(
        self, slot: str, kind: str, act: Callable[[Lease], object], why: HandBack | None = None
    ) -> None:
        lease = self.leases[slot]
        operation = Operation(
            kind=kind, who=WORKERS[slot], lease=lease, held=lease.attempt, why=why
        )
        self.begin(operation, lambda: act(lease), slot)

    @some_worker_has_a_lease
    @rule(data=st.data(), number=st.integers(0, 1), state=st.sampled_from(StepState))
    def progress(self, data: st.DataObject, number: int, state: StepState) -> None:
        slot = self.idle_worker(data, leased=True)
        steps = list(self.leases[slot].record.steps)
        steps[number] = replace(steps[number], state=state)
        self.begin_with_lease(slot, "progress", lambda lease: self.store.progress(lease, steps))

    @some_worker_has_a_lease
    @rule(data=st.data(), state=st.sampled_from(FINAL))
    def finish(self, data: st.DataObject, state: JobState) -> None:
        self.begin_with_lease(
            self.idle_worker(data, leased=True),
            "finish",
            lambda lease: self.store.finish(lease, state, "", lease.record.steps),
        )

    @some_worker_has_a_lease
    @rule(data=st.data(), why=st.sampled_from(HandBack))
    def give_back(self, data: st.DataObject, why: HandBack) -> None:
        self.begin_with_lease(
            self.idle_worker(data, leased=True),
            "give_back",
            lambda lease: self.store.give_back(lease, why, "it was nothing"),
            why,
        )

    @rule(slot=st.sampled_from(list(WORKERS)))
    def look(self, slot: str) -> None:
        if lease := self.leases.get(slot):
            mine = self.last is not None and (self.last.state, self.last.attempt) == (
                "Running",
                lease.attempt,
            )
            assert self.store.is_current(lease) == mine

    # Time passes

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), steps=st.integers(1, 5))
    def go(self, data: st.DataObject, steps: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.busy)))
        for _ in range(steps):
            if slot in self.busy:
                self.go_on(slot, Fate.ANSWERED)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.busy)))
        fates = self.fates + (self.impatient if slot in CLIENTS else ())
        self.go_on(slot, data.draw(st.sampled_from(fates)))

    @rule(process=st.sampled_from(["A", "B", *CLIENTS]), now=st.integers(0, 3))
    def crash(self, process: str, now: int) -> None:
        if now:
            return  # that would be too often
        for slot in [s for s in (*WORKERS, *CLIENTS) if WORKERS.get(s, s) == process]:
            self.leases.pop(slot, None)
            if operation := self.busy.pop(slot, None):
                assert operation.actor is not None
                operation.actor.crash()

    # What is always so

    @invariant()
    def the_history_is_what_was_accepted(self) -> None:
        assert self.store.history(self.job.id) == self.accepted[-HISTORY:]
        assert self.store.get(self.job.id) == self.last

    @invariant()
    def at_most_one_lease_holds(self) -> None:
        attempts = [lease.attempt for lease in self.leases.values()]
        assert len(set(attempts)) == len(attempts)
        last = self.last
        if last is not None:
            assert max(attempts, default=0) <= last.attempt

    def teardown(self) -> None:
        for slot in list(self.busy):
            while slot in self.busy:
                self.go_on(slot, Fate.ANSWERED)
        self.the_history_is_what_was_accepted()


def test_no_order_of_requests_makes_a_record_lie() -> None:
    run_state_machine_as_test(
        JobLife,
        settings=settings(
            max_examples=600,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class RealBucket(Bucket):
    """Stands still before each request."""

    def __init__(self, connection: NatsConnection, machine: JobLife) -> None:
        super().__init__(connection, f"b{uuid.uuid4().hex[:8]}", history=HISTORY)
        self.declare()
        self.machine = machine

    def read(self, line: Any, key: Any) -> Entry:
        return _asked(lambda: super(RealBucket, self).read(line, key))

    def write(self, line: Any, key: Any, value: bytes, headers: Any) -> int:
        def write() -> int:
            revision = super(RealBucket, self).write(line, key, value, headers)
            self.machine.written(key, Entry(value, revision))
            return revision

        return _asked(write)


def _asked(act: Callable[[], Any]) -> Any:
    try:
        return request(act)
    except Lost as error:
        raise ConnectionClosed("lost on purpose") from error


@pytest.fixture
def real_life(connection: NatsConnection, monkeypatch) -> Iterator[type[JobLife]]:
    monkeypatch.setattr(requester, "RETRY_SECONDS", 0.0)
    opened: list[RealBucket] = []

    class RealLife(JobLife):
        impatient = ()

        def open_bucket(self) -> RealBucket:
            opened.append(RealBucket(connection, self))
            return opened[-1]

        def teardown(self) -> None:
            super().teardown()
            bucket = opened.pop()
            bucket.close()
            connection.run(connection.jetstream.delete_stream(bucket.stream))

    yield RealLife


def test_no_order_of_requests_to_a_real_server_makes_a_record_lie(real_life) -> None:
    run_state_machine_as_test(
        real_life,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
