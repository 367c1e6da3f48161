"""Jobs whose records wait for a message that the queue does not have."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest

from brokers import subjects
from brokers.control import Control
from brokers.duties import Duty
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.keeper import GONE, NEVER_QUEUED, Keeper, OpenJobs
from brokers.nats import queues
from brokers.nats.connection import NatsConnection
from brokers.opening import open_broker
from brokers.payloads import PayloadStore, whole
from brokers.queue import JobQueue
from brokers.record_feed import RecordFeed
from brokers.records import JobRecord
from brokers.settings import NatsSettings
from brokers.transitions import HandBack
from executors.job import Job, JobState, Step
from executors.redaction import Redactor


class Told:
    """Hears of ends."""

    def __init__(self) -> None:
        self.ends: list[JobRecord] = []

    def changed(self, record: JobRecord) -> None:
        """Not of interest."""

    def ended(self, record: JobRecord) -> None:
        self.ends.append(record)


class Site:
    """Everything but workers, on a server of its own."""

    def __init__(self, url: str) -> None:
        self.settings = NatsSettings(url=url)
        self.connection = NatsConnection(url)
        self.broker = open_broker(self.settings, self.connection, middleware=[])
        self.store = JobStore(self.connection, max_age=3600)
        self.told = Told()
        self.events = Events(self.connection, max_age=3600, listeners=[self.told])
        self.payloads = PayloadStore(self.connection, max_age=3600)
        self.queue = JobQueue(self.broker, self.store, self.events, self.payloads, Redactor().job)
        self.keeper = self.new_keeper("k")

    def new_keeper(self, name: str, every: float = 60.0) -> Keeper:
        return Keeper(self.store, self.broker, self.events, self.payloads, name=name, every=every)

    def looks(self, times: int) -> None:
        for _ in range(times):
            self.keeper.look()

    def close(self) -> None:
        self.broker.close()
        self.connection.close()


@pytest.fixture
def site(own_server) -> Iterator[Site]:
    site = Site(own_server.url)
    yield site
    site.close()


def job_of(size: int = 0) -> Job:
    return Job(id=str(uuid.uuid4()), name="j", steps=(Step(image="i", script="x" * size),))


def state(site: Site, job: Job) -> tuple[JobState, str]:
    record = site.store.get(job.id)
    assert record is not None
    return record.state, record.reason


def test_a_job_whose_message_is_gone_is_given_up_and_that_is_told(site) -> None:
    lost, waiting = job_of(600_000), job_of()
    site.queue.put(lost)
    site.queue.put(waiting)
    site.broker.remove(site.store.get(lost.id).queue_seq)
    site.looks(3)
    assert state(site, lost) == (JobState.FAILED, GONE)
    assert site.told.ends == [site.store.get(lost.id)]
    assert site.payloads.get(whole(lost.id)) is None
    assert state(site, waiting) == (JobState.QUEUED, "")


def test_a_job_is_given_up_at_the_second_look_that_misses_its_message(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.broker.flush(subjects.QUEUE)
    site.looks(2)
    assert state(site, job) == (JobState.QUEUED, "")
    site.looks(1)
    assert state(site, job) == (JobState.FAILED, GONE)


def test_a_queue_that_somebody_deletes_takes_its_jobs_with_it(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.connection.run(site.connection.jetstream.delete_stream(site.broker.names.stream))
    site.looks(3)
    assert state(site, job) == (JobState.FAILED, GONE)


def test_a_retry_that_never_reached_the_queue_fails(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.queue.stop(job.id)
    assert site.store.retry(job.id)  # and the process died
    site.looks(3)
    assert state(site, job) == (JobState.FAILED, NEVER_QUEUED)


def test_a_job_whose_record_changes_between_two_looks_is_left_alone(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.broker.flush(subjects.QUEUE)
    site.looks(2)
    lease = site.store.claim(job, "w", queue_seq=1)
    assert lease is not None
    site.looks(1)
    assert state(site, job)[0] is JobState.RUNNING
    site.store.give_back(lease, HandBack.DRAINED)
    site.looks(1)
    assert state(site, job)[0] is JobState.QUEUED


@pytest.mark.parametrize("alive", [True, False])
def test_a_job_without_a_message_that_runs_may_end_by_itself(site, alive) -> None:
    job = job_of()
    lease = site.store.claim(job, "w", queue_seq=99)
    assert lease is not None
    Control(site.connection).listen("w", lambda _: None, lambda *held: alive)
    site.looks(4)
    expected = (JobState.RUNNING, "") if alive else (JobState.FAILED, GONE)
    assert state(site, job) == expected


@pytest.mark.parametrize("there", [True, False])
def test_who_stops_a_job_that_runs_tells_of_it_when_no_message_will(site, there) -> None:
    """Otherwise that is left to the worker, which knows when the log is complete."""
    job = job_of()
    record = site.queue.put(job)
    assert site.store.claim(job, "w", queue_seq=record.queue_seq)
    if not there:
        site.broker.flush(subjects.QUEUE)
    stopped = site.queue.stop(job.id)
    assert site.told.ends == ([] if there else [stopped])


def test_what_one_keeper_gave_up_and_did_not_tell_the_next_one_tells(site, monkeypatch) -> None:
    job = job_of()
    site.queue.put(job)
    site.broker.flush(subjects.QUEUE)
    monkeypatch.setattr(site.keeper, "end", lambda record: None)  # it died
    site.looks(3)
    assert site.told.ends == []
    site.new_keeper("another").look()
    assert [record.id for record in site.told.ends] == [job.id]


def test_jobs_that_are_over_are_not_remembered(site) -> None:
    jobs = OpenJobs(RecordFeed(site.connection, site.store.stream))
    over, waiting = job_of(), job_of()
    site.queue.put_many([over, waiting])
    site.queue.stop(over.id)
    assert jobs.read_on() == {}
    assert list(jobs.read_on()) == [waiting.id]
    site.queue.stop(waiting.id)
    assert jobs.read_on() == {}


def test_a_bucket_that_was_made_anew_is_read_from_its_beginning(site) -> None:
    jobs = OpenJobs(RecordFeed(site.connection, site.store.stream))
    for _ in range(5):
        site.queue.put(job_of())
    jobs.read_on()
    site.connection.run(site.connection.jetstream.delete_stream(site.store.stream))
    job = job_of()
    site.store.claim(job, "w")
    jobs.read_on()
    assert list(jobs.read_on()) == [job.id]


def test_one_of_many_processes_has_the_duty(connection) -> None:
    name = uuid.uuid4().hex
    one, other = (Duty(connection, name, holder, seconds=60.0) for holder in "ab")
    assert one.mine(patience=5.0)
    assert not other.mine(patience=5.0)
    assert one.mine(patience=5.0)


def test_a_duty_that_nobody_does_is_taken(connection) -> None:
    name = uuid.uuid4().hex
    dead, living = (Duty(connection, name, holder, seconds=1.0) for holder in "ab")
    assert dead.mine(patience=5.0)
    deadline = monotonic() + 30
    while not living.mine(patience=5.0):
        assert monotonic() < deadline


def test_of_two_keepers_one_looks(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.broker.flush(subjects.QUEUE)
    keepers = [site.new_keeper(name, every=0.1) for name in "ab"]
    for keeper in keepers:
        keeper.start()
    deadline = monotonic() + 30
    while not site.told.ends:
        assert monotonic() < deadline
    for keeper in keepers:
        keeper.stop()
    assert len(site.told.ends) == 1


def test_a_message_that_is_gone_in_whatever_way_cannot_be_removed_again(site) -> None:
    numbers = [record.queue_seq for record in site.queue.put_many([job_of() for _ in range(3)])]
    assert site.broker.remove(numbers[1])
    assert not site.broker.remove(numbers[1])
    site.broker.flush(subjects.QUEUE)
    assert [site.broker.remove(number) for number in (*numbers, 999)] == [False] * 4


def test_a_job_without_a_message_can_be_stopped(site) -> None:
    job = job_of()
    site.queue.put(job)
    site.broker.flush(subjects.QUEUE)
    stopped = site.queue.stop(job.id)
    assert stopped is not None
    assert site.told.ends == [stopped]


def test_the_queue_knows_what_is_gone_from_its_middle_too(site, monkeypatch) -> None:
    records = site.queue.put_many([job_of() for _ in range(6)])
    numbers = [record.queue_seq for record in records]
    for number in (numbers[0], numbers[2], numbers[5]):
        site.broker.remove(number)
    gone = {numbers[0], numbers[2], numbers[5], 999}
    assert site.broker.gone([*numbers, 999]) == gone
    monkeypatch.setattr(queues, "HOLES", 0)
    assert site.broker.gone([*numbers, 999]) == gone
    assert site.broker.gone([]) == set()


@pytest.mark.slow
def test_fifty_thousand_waiting_jobs_are_looked_through_in_seconds(site) -> None:
    site.queue.put(job_of())
    record = JobRecord.of(job_of()).with_message(1)
    for _ in range(10):
        site.store.create_many([replace(record, id=str(uuid.uuid4())) for _ in range(5_000)])
    began = monotonic()
    site.looks(3)
    assert monotonic() - began < 60
    assert site.told.ends == []
