"""A job from its submission to its last acknowledgement, whatever is interrupted on the way.

Two workers and two clients make one request at a time, in any order; answers are lost, processes
die between two requests, messages are delivered twice. However it went: when everything has come to
rest, the job is over, that was told, and nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from brokers.records import JobRecord
from executors.errors import QueueError
from executors.job import JobState
from tests.brokers.interleaving import Actor, Fate
from tests.workers.message_world import Process, World

CLIENTS = ("one", "another")
WORKERS = ("A", "B")
ROUNDS = 60


class MessageLife(RuleBasedStateMachine):
    """One job."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.busy: dict[str, Actor] = {}
        self.handled: dict[str, int] = {}
        """Numbers of the messages that workers work on."""
        self.left: set[int] = set()
        """Messages that nobody may hold any more: they can be delivered again."""
        self.retries = 0
        self.cut_short = False
        """Whether a client died, or lost patience, with something half done."""

    # Clients

    def begin(self, who: str, operation: Callable[[], object]) -> None:
        self.busy[who] = Actor(who, operation)
        self.look_at(who)

    def look_at(self, who: str) -> None:
        actor = self.busy[who]
        if not actor.over:
            return
        del self.busy[who]
        self.handled.pop(who, None)
        if actor.error is not None and not isinstance(actor.error, QueueError):
            raise actor.error

    @initialize(smoothly=st.integers(0, 4))
    def submit(self, smoothly: int) -> None:
        self.begin("one", lambda: self.world.clients.put_many([self.world.job]))
        while smoothly and "one" in self.busy:
            self.go_on("one", Fate.ANSWERED)

    @precondition(lambda self: any(each not in self.busy for each in CLIENTS))
    @rule(data=st.data(), what=st.sampled_from(["stop", *["retry"] * 4, "withdraw"]))
    def ask_for(self, data: st.DataObject, what: str) -> None:
        clients, job = self.world.clients, self.world.job
        who = data.draw(st.sampled_from([each for each in CLIENTS if each not in self.busy]))
        if what == "withdraw":
            if self.world.refusals:
                self.begin(who, lambda: clients._withdraw(*self.world.refusals.pop()))
        elif what == "stop":
            self.begin(who, lambda: clients.stop(job.id, "enough"))
        else:
            self.begin(who, lambda: clients.retry(job))

    def over(self) -> bool:
        record = self.world.record()
        return record is not None and record.state.final

    @precondition(lambda self: "another" not in self.busy and self.over())
    @rule()
    def retry_at_once(self) -> None:
        self.ask_smoothly(lambda: self.world.clients.retry(self.world.job), 99)

    @precondition(lambda self: "another" not in self.busy and not self.over())
    @rule(steps=st.sampled_from([2, 2, 3, 4]), really=st.booleans())
    def stop_and_die(self, steps: int, really: bool) -> None:
        """The record says so by then; the rest is to be done by others."""
        if really:
            self.ask_smoothly(lambda: self.world.clients.stop(self.world.job.id, "enough"), steps)
            if actor := self.busy.pop("another", None):
                actor.crash()

    def ask_smoothly(self, operation: Callable[[], object], steps: int) -> None:
        self.begin("another", operation)
        for _ in range(steps):
            if "another" in self.busy:
                self.go_on("another", Fate.ANSWERED)

    # Workers

    def deliverable(self) -> list[int]:
        held = set(self.handled.values()) - self.left
        return sorted(number for number in self.world.queue.messages if number not in held)

    @precondition(lambda self: any(each not in self.busy for each in WORKERS))
    @precondition(lambda self: self.deliverable())
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["good", "bad", "bad", "broken"]),
        hears=st.sampled_from([True, True, True, False]),
    )
    def deliver(self, data: st.DataObject, outcome: str, hears: bool) -> None:
        who = data.draw(st.sampled_from([each for each in WORKERS if each not in self.busy]))
        number = data.draw(st.sampled_from(self.deliverable()))
        self.world.outcome, self.world.hears = outcome, hears
        self.work(who, number)

    def work(self, who: str, number: int) -> None:
        self.left.discard(number)
        self.handled[who] = number
        process = self.world.processes[who]
        self.begin(who, lambda: process.work(number))

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """The server has not heard of the worker for too long."""
        self.left.add(data.draw(st.sampled_from(sorted(self.handled.values()))))

    @precondition(lambda self: len(self.handled) == 1)
    @rule(steps=st.integers(1, 12))
    def take_over(self, steps: int) -> None:
        """The other worker gets the message as well, and hears nothing of the first."""
        [(first, number)] = self.handled.items()
        [second] = {*WORKERS} - {first}
        if number in self.world.queue.messages:
            self.world.hears = False
            self.work(second, number)
            for _ in range(steps):
                if second in self.busy:
                    self.go_on(second, Fate.ANSWERED)

    @rule(who=st.sampled_from(WORKERS))
    def watch(self, who: str) -> None:
        self.world.processes[who].watch()

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        """The process hands back what it runs, and another one takes its place."""
        who = data.draw(st.sampled_from(sorted(self.handled)))
        self.world.processes[who].attempts.drain()
        while who in self.busy:
            self.go_on(who, Fate.ANSWERED)
        self.world.processes[who] = Process(self.world, who)

    # Time passes

    def go_on(self, who: str, fate: Fate) -> None:
        self.busy[who].step(fate)
        self.look_at(who)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def go(self, data: st.DataObject, steps: int) -> None:
        who = data.draw(st.sampled_from(sorted(self.busy)))
        for _ in range(steps):
            if who in self.busy:
                self.go_on(who, Fate.ANSWERED)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), lost=st.sampled_from([Fate.ANSWER_LOST, Fate.REQUEST_LOST]))
    def lose(self, data: st.DataObject, lost: Fate) -> None:
        self.go_on(data.draw(st.sampled_from(sorted(self.busy))), lost)

    @precondition(lambda self: any(each in self.busy for each in CLIENTS))
    @rule(
        data=st.data(),
        how=st.sampled_from([Fate.GIVEN_UP, Fate.NEVER_ASKED]),
        really=st.integers(0, 2),
    )
    def give_up(self, data: st.DataObject, how: Fate, really: int) -> None:
        """NATS stays away for longer than a client waits."""
        if really:
            return
        who = data.draw(st.sampled_from([each for each in CLIENTS if each in self.busy]))
        self.go_on(who, how)
        self.cut_short = True

    @precondition(lambda self: any(each in self.busy for each in CLIENTS))
    @rule(data=st.data(), really=st.integers(0, 3))
    def lose_client(self, data: st.DataObject, really: int) -> None:
        if really:
            return
        who = data.draw(st.sampled_from([each for each in CLIENTS if each in self.busy]))
        self.busy.pop(who).crash()
        self.cut_short = True

    @precondition(lambda self: self.handled)
    @rule(data=st.data(), steps=st.integers(0, 12))
    def lose_worker(self, data: st.DataObject, steps: int) -> None:
        who = data.draw(st.sampled_from(sorted(self.handled)))
        for _ in range(steps):
            if who in self.busy:
                self.go_on(who, Fate.ANSWERED)
        if actor := self.busy.pop(who, None):
            actor.crash()
            self.handled.pop(who)
            self.world.processes[who] = Process(self.world, who)

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def lose_worker_at_the_last_moment(self, data: st.DataObject) -> None:
        """All is done but for the acknowledgement."""
        who = data.draw(st.sampled_from(sorted(self.handled)))
        queue = self.world.queue
        queue.settling = False
        while who in self.busy and not queue.settling:
            self.go_on(who, Fate.ANSWERED)
        if actor := self.busy.pop(who, None):
            actor.crash()
            self.handled.pop(who)
            self.world.processes[who] = Process(self.world, who)

    # What is always so

    @invariant()
    def no_two_attempts_are_current(self) -> None:
        running = [
            attempt.lease
            for process in self.world.processes.values()
            for attempt in process.attempts.all()
        ]
        assert sum(self.world.store.is_current(lease) for lease in running) <= 1

    @invariant()
    def who_waits_or_runs_has_a_message(self) -> None:
        """Unless a client is about to put it there, or died when it was."""
        record = self.world.record()
        if record is not None and not record.state.final and not self.cut_short:
            putting = any(each in self.busy for each in CLIENTS) or self.world.refusals
            assert self.world.queue.messages or putting, "its message is gone"

    @invariant()
    def an_earlier_message_claims_nothing(self) -> None:
        history = self.world.store.history(self.world.job.id)
        numbers = [record.queue_seq for _, record in history if record.queue_seq]
        assert numbers == sorted(numbers)

    def teardown(self) -> None:
        """Everything goes on, nothing fails any more."""
        world = self.world
        world.outcome, world.hears = "good", True
        for who in list(self.busy):
            while who in self.busy:
                self.go_on(who, Fate.ANSWERED)
        while world.refusals:
            world.clients._withdraw(*world.refusals.pop())
        rounds = 0
        while world.queue.messages:
            rounds += 1
            assert rounds < ROUNDS, "the queue is never empty"
            self.handled.clear()
            number = min(world.queue.messages) if rounds % 2 else max(world.queue.messages)
            self.work("A", number)
            while "A" in self.busy:
                self.go_on("A", Fate.ANSWERED)
        self.everything_is_over(world.record())

    def everything_is_over(self, record: JobRecord | None) -> None:
        world = self.world
        if record is None or (not record.state.final and not record.queue_seq):
            assert self.cut_short, "nobody knows of the job"
            return
        assert record.state.final
        assert record.reason != "its payload is lost"
        if not (self.cut_short and record.state is JobState.FAILED):
            assert record in world.told.ends, "nobody was told how it ended"
        if not self.cut_short:
            assert world.payloads_left() == []
        assert all(process.executor.open_now == {} for process in world.processes.values())


def test_however_it_is_interrupted_a_job_ends_and_that_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr("brokers.queue.MAX_CARRIED", 0)  # what is stored beside must go, too
    run_state_machine_as_test(
        MessageLife,
        settings=settings(
            max_examples=500,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
