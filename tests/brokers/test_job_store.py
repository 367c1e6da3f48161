"""Records of jobs: who may change them, and when."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from brokers import subjects
from brokers.job_store import JobRecord, JobStore, StepRecord
from brokers.nats.errors import RevisionConflict
from executors.errors import AttemptLost
from executors.job import Job, JobState, Step

STEP = StepRecord(
    id=1,
    name="build",
    image="alpine",
    exit_code=0,
    started_at="2026-01-01T00:00:00.000000Z",
    finished_at="2026-01-01T00:00:01.000000Z",
)


@pytest.fixture
def store(connection) -> JobStore:
    return JobStore(connection, max_age=3600)


@pytest.fixture
def job() -> Job:
    return Job(
        id=str(uuid.uuid4()),
        name="täglich",
        priority=2,
        metadata={"TOKEN": "t0ps3cret"},
        steps=(Step(image="alpine", name="build", script="make"),),
    )


def queued(store: JobStore, job: Job) -> JobRecord:
    record = JobRecord.of(job)
    store.create(record)
    return record


def claimed(store: JobStore, job: Job, worker: str = "w") -> JobRecord:
    record = store.claim(job, worker)
    assert record is not None
    return record


def test_a_new_record_reads_back_as_it_was_written(store, job) -> None:
    record = queued(store, job)
    assert store.get(job.id) == record
    assert (record.state, record.attempt, record.priority) == (JobState.QUEUED, 0, "medium")
    assert job.id in store.ids()


def test_an_unknown_job_has_no_record(store, job) -> None:
    assert store.get(job.id) is None


def test_a_record_is_created_once(store, job) -> None:
    queued(store, job)
    with pytest.raises(RevisionConflict):
        store.create(JobRecord.of(job))


def test_a_record_holds_neither_script_nor_metadata(store, job, connection) -> None:
    queued(store, job)
    text = json.dumps(claimed(store, job).to_dict())
    assert "t0ps3cret" not in text
    assert "make" not in text


def test_a_claim_begins_the_next_attempt(store, job) -> None:
    queued(store, job)
    record = claimed(store, job, "w1")
    assert (record.state, record.attempt, record.worker) == (JobState.RUNNING, 1, "w1")
    assert record.started_at
    assert store.get(job.id) == record


def test_a_claim_of_an_unknown_job_makes_its_record(store, job) -> None:
    record = claimed(store, job)
    assert (record.attempt, record.name) == (1, "täglich")
    assert store.get(job.id) == record


def test_a_finished_job_keeps_its_end_and_its_steps(store, job) -> None:
    record = claimed(store, job)
    ended = store.finish(record, JobState.SUCCEEDED, "", (STEP,))
    assert store.get(job.id) == ended
    assert (ended.state, ended.steps) == (JobState.SUCCEEDED, (STEP,))
    assert ended.finished_at >= ended.started_at


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED])
def test_a_final_state_is_final(store, job, state) -> None:
    record = claimed(store, job)
    ended = store.finish(record, state, "first", ())
    with pytest.raises(AttemptLost):
        store.finish(record, JobState.FAILED, "second", ())
    with pytest.raises(AttemptLost):
        store.give_back(record, counted=True)
    assert store.claim(job, "late") is None
    assert store.withdraw(job.id, "late") is None
    assert store.get(job.id) == ended


def test_an_attempt_that_was_superseded_changes_nothing(store, job) -> None:
    first, second = claimed(store, job, "w1"), claimed(store, job, "w2")
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(AttemptLost):
        store.finish(first, JobState.SUCCEEDED, "", ())
    with pytest.raises(AttemptLost):
        store.give_back(first, counted=True)
    assert store.get(job.id) == second
    assert store.finish(second, JobState.FAILED, "x", ()).reason == "x"


@pytest.mark.parametrize(("counted", "following"), [(True, 2), (False, 1)])
def test_a_job_that_is_given_back_waits_again(store, job, counted, following) -> None:
    record = store.give_back(claimed(store, job), counted=counted)
    assert (record.state, record.worker, record.started_at) == (JobState.QUEUED, "", "")
    assert store.get(job.id) == record
    assert claimed(store, job).attempt == following


def test_threads_that_claim_at_once_get_different_attempts(store, job) -> None:
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda n: claimed(store, job, f"w{n}"), range(8)))
    assert sorted(record.attempt for record in records) == list(range(1, 9))
    [current] = [record for record in records if record == store.get(job.id)]
    assert current.attempt == 8


def test_of_threads_that_finish_at_once_one_writes_the_end(store, job) -> None:
    record = claimed(store, job)

    def finish(number: int) -> JobRecord | None:
        try:
            return store.finish(record, JobState.FAILED, str(number), ())
        except AttemptLost:
            return None

    with ThreadPoolExecutor(8) as pool:
        ended = [record for record in pool.map(finish, range(8)) if record is not None]
    assert ended == [store.get(job.id)]


def test_a_job_that_did_not_reach_the_queue_is_withdrawn(store, job) -> None:
    queued(store, job)
    record = store.withdraw(job.id, "not queued")
    assert record is not None
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, "not queued", 0)
    assert store.claim(job, "w") is None


def test_a_job_that_runs_or_is_unknown_is_not_withdrawn(store, job) -> None:
    assert store.withdraw(job.id, "never heard of") is None
    record = claimed(store, job)
    assert store.withdraw(job.id, "too late") is None
    store.give_back(record, counted=True)
    assert store.withdraw(job.id, "too late") is None


def test_fields_of_later_versions_are_left_out() -> None:
    record = replace(JobRecord.of(Job(id="x", name="n", steps=())), steps=(STEP,))
    data = json.loads(json.dumps(record.to_dict()))
    data["colour"] = "blue"
    data["steps"][0]["weight"] = 3
    assert JobRecord.from_dict(data) == record


def test_records_are_kept_as_long_as_the_store_was_told(store, job, connection) -> None:
    queued(store, job)
    info = connection.run(connection.jetstream.stream_info(f"KV_{subjects.RECORD_BUCKET}"))
    assert info.config.max_age == 3600
    assert info.config.max_msgs_per_subject == 1


def test_a_bucket_that_somebody_has_deleted_is_made_anew(own_server) -> None:
    from brokers.nats.connection import NatsConnection

    connection = NatsConnection(own_server.url)
    store = JobStore(connection, max_age=3600)
    job = Job(id="again", name="n", steps=())
    queued(store, job)
    connection.run(connection.jetstream.delete_stream(store.stream))
    assert claimed(store, job).attempt == 1
    connection.close()
