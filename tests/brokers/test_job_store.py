"""Records of jobs: who may change them, and when."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import pytest

from brokers import subjects
from brokers.job_store import FRESH_SECONDS, HISTORY, JobStore, Lease
from brokers.records import JobRecord, StepRecord, StepState
from brokers.transitions import HandBack
from executors.errors import AttemptLost
from executors.job import Job, JobState, Step


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
        steps=(Step(image="alpine", name="build", script="make"), Step(image="alpine", id=2)),
    )


def queued(store: JobStore, job: Job) -> JobRecord:
    record = JobRecord.of(job)
    store.create(record)
    return record


def claimed(store: JobStore, job: Job, worker: str = "w") -> Lease:
    lease = store.claim(job, worker)
    assert lease is not None
    return lease


def done(lease: Lease) -> tuple[StepRecord, ...]:
    return tuple(replace(s, state=StepState.SUCCEEDED, exit_code=0) for s in lease.record.steps)


def test_a_new_record_reads_back_as_it_was_written(store, job) -> None:
    record = queued(store, job)
    assert store.get(job.id) == record
    assert (record.state, record.attempt, record.priority) == (JobState.QUEUED, 0, "medium")
    assert [(step.name, step.state) for step in record.steps] == [
        ("build", StepState.WAITING),
        ("", StepState.WAITING),
    ]
    assert job.id in store.ids()


def test_an_unknown_job_has_no_record(store, job) -> None:
    assert store.get(job.id) is None
    assert store.history(job.id) == []


def test_a_record_is_created_once(store, job) -> None:
    record = queued(store, job)
    store.create(replace(record, name="another"))
    store.create_many([replace(record, name="a third")])
    assert store.get(job.id) == record


def test_many_records_are_created_at_once(store) -> None:
    records = [JobRecord.of(Job(id=str(uuid.uuid4()), name="n", steps=())) for _ in range(600)]
    store.create_many(records)
    assert [store.get(record.id) for record in records[::100]] == records[::100]
    assert {record.id for record in records} <= set(store.ids())


def test_a_record_holds_no_script_and_only_the_metadata_that_it_was_given(store, job) -> None:
    queued(store, job)
    text = json.dumps(claimed(store, job).record.to_dict())
    assert "t0ps3cret" not in text
    assert "make" not in text


def test_a_claim_begins_the_next_attempt(store, job) -> None:
    queued(store, job)
    lease = store.claim(job, "w1", queue_seq=7)
    assert lease is not None
    record = lease.record
    assert (record.state, record.attempt, record.worker) == (JobState.RUNNING, 1, "w1")
    assert (record.lost, record.queue_seq) == (0, 7)
    assert record.started_at
    assert store.get(job.id) == record
    assert store.is_current(lease)


def test_a_claim_of_an_unknown_job_makes_its_record(store, job) -> None:
    record = claimed(store, job).record
    assert (record.attempt, record.name) == (1, "täglich")
    assert store.get(job.id) == record


def test_who_takes_over_is_asked_first_and_counts_the_worker_as_lost(store, job) -> None:
    first = claimed(store, job, "w1")
    asked: list[JobRecord] = []
    second = store.claim(job, "w2", take_over=asked.append)
    assert second is not None
    assert asked == [first.record]
    assert (second.attempt, second.record.lost) == (2, 1)
    assert not store.is_current(first)


def test_an_attempt_that_is_still_alive_is_not_taken_over(store, job) -> None:
    lease = claimed(store, job, "w1")

    def refuse(record: JobRecord) -> None:
        raise RuntimeError("it is alive")

    with pytest.raises(RuntimeError):
        store.claim(job, "w2", take_over=refuse)
    assert store.is_current(lease)


def test_progress_is_seen_at_once(store, job) -> None:
    lease = claimed(store, job)
    steps = (replace(lease.record.steps[0], state=StepState.RUNNING), lease.record.steps[1])
    store.progress(lease, steps)
    record = store.get(job.id)
    assert record == lease.record
    assert record.steps == steps


def test_a_finished_job_keeps_its_end_and_its_steps(store, job) -> None:
    lease = claimed(store, job)
    steps = done(lease)
    ended = store.finish(lease, JobState.SUCCEEDED, "", steps)
    assert store.get(job.id) == ended
    assert (ended.state, ended.steps) == (JobState.SUCCEEDED, steps)
    assert ended.finished_at >= ended.started_at


def test_no_step_of_a_job_that_is_over_is_left_open(store, job) -> None:
    lease = claimed(store, job)
    first, second = lease.record.steps
    store.progress(lease, (replace(first, state=StepState.RUNNING), second))
    stopped = store.stop(job.id, "enough")
    assert stopped is not None
    assert [step.state for step in stopped.steps] == [StepState.STOPPED, StepState.SKIPPED]


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED])
def test_a_final_state_is_final(store, job, state) -> None:
    lease = claimed(store, job)
    late = Lease(lease.record, lease.revision)
    ended = store.finish(lease, state, "first", ())
    with pytest.raises(AttemptLost):
        store.finish(late, JobState.FAILED, "second", ())
    with pytest.raises(AttemptLost):
        store.progress(late, ())
    for why in HandBack:
        with pytest.raises(AttemptLost):
            store.give_back(late, why)
    assert store.claim(job, "late") is None
    assert store.stop(job.id, "late") is None
    assert store.withdraw(JobRecord.of(job), "late") is None
    assert store.abandon(late.record, "late") is None
    assert store.get(job.id) == ended


def test_an_attempt_that_was_superseded_changes_nothing(store, job) -> None:
    first, second = claimed(store, job, "w1"), claimed(store, job, "w2")
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(AttemptLost):
        store.finish(first, JobState.SUCCEEDED, "", ())
    with pytest.raises(AttemptLost):
        store.give_back(first, HandBack.DRAINED)
    assert store.get(job.id) == second.record
    assert store.finish(second, JobState.FAILED, "x", ()).reason == "x"


@pytest.mark.parametrize(
    ("why", "counts"),
    [(HandBack.DRAINED, (0, 0)), (HandBack.ERROR, (1, 0)), (HandBack.RETRY, (0, 1))],
)
def test_a_job_that_is_given_back_waits_for_an_attempt_of_another_number(
    store, job, why, counts
) -> None:
    record = store.give_back(claimed(store, job), why)
    assert (record.state, record.worker, record.started_at) == (JobState.QUEUED, "", "")
    assert (record.errors, record.tries) == counts
    assert store.get(job.id) == record
    lease = claimed(store, job)
    assert (lease.attempt, lease.record.lost) == (2, 0)


def test_a_retry_of_a_job_that_is_over_begins_with_all_its_chances(store, job) -> None:
    claimed(store, job)
    lease = claimed(store, job)
    assert store.retry(job.id) is None
    store.finish(lease, JobState.FAILED, "x", done(lease))
    record = store.retry(job.id)
    assert record is not None
    assert (record.state, record.reason, record.lost, record.attempt) == ("Queued", "", 0, 2)
    assert {step.state for step in record.steps} == {StepState.WAITING}
    store.queued(record, 99)
    lease = claimed(store, job)
    assert lease.attempt == 3


def test_a_retry_forgets_what_the_tries_before_it_have_cost(store, job) -> None:
    for why in (HandBack.ERROR, HandBack.RETRY):
        store.give_back(claimed(store, job), why)
    claimed(store, job)
    lease = claimed(store, job)
    counts = (lease.record.lost, lease.record.errors, lease.record.tries)
    assert counts == (1, 1, 1)
    store.finish(lease, JobState.FAILED, "x", ())
    record = store.retry(job.id)
    assert record is not None
    assert (record.lost, record.errors, record.tries) == (0, 0, 0)


def test_a_message_that_a_retry_has_replaced_claims_nothing(store, job) -> None:
    lease = store.claim(job, "w", queue_seq=7)
    assert lease is not None
    store.finish(lease, JobState.FAILED, "x", ())
    record = store.retry(job.id)
    assert record is not None
    store.queued(record, 9)
    assert store.claim(job, "w", queue_seq=7) is None
    again = store.claim(job, "w", queue_seq=9)
    assert again is not None
    assert again.attempt == 2


def test_the_message_of_a_retry_is_not_noted_once_an_attempt_was_given_back(store, job) -> None:
    store.finish(claimed(store, job), JobState.FAILED, "x", ())
    record = store.retry(job.id)
    assert record is not None
    given_back = store.give_back(claimed(store, job), HandBack.DRAINED)
    store.queued(record, 99)
    assert store.get(job.id) == given_back


def test_the_message_of_a_retry_is_noted_unless_somebody_has_it_already(store, job) -> None:
    store.finish(claimed(store, job), JobState.FAILED, "x", ())
    record = store.retry(job.id)
    assert record is not None
    lease = claimed(store, job)
    store.queued(record, 99)
    assert store.get(job.id) == lease.record


def test_threads_that_claim_at_once_get_different_attempts(store, job) -> None:
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda n: claimed(store, job, f"w{n}"), range(8)))
    assert sorted(lease.attempt for lease in leases) == list(range(1, 9))
    [current] = [lease for lease in leases if store.is_current(lease)]
    assert current.attempt == 8


def test_of_threads_that_finish_at_once_one_writes_the_end(store, job) -> None:
    lease = claimed(store, job)

    def finish(number: int) -> JobRecord | None:
        mine = Lease(lease.record, lease.revision)
        try:
            return store.finish(mine, JobState.FAILED, str(number), ())
        except AttemptLost:
            return None

    with ThreadPoolExecutor(8) as pool:
        ended = [record for record in pool.map(finish, range(8)) if record is not None]
    assert ended == [store.get(job.id)]


def test_a_job_that_was_refused_is_withdrawn_whether_it_is_known_or_not(store, job) -> None:
    record = store.withdraw(JobRecord.of(job), "not queued")
    assert record is not None
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, "not queued", 0)
    assert store.claim(job, "w") is None


def test_a_job_that_runs_is_not_withdrawn(store, job) -> None:
    refused = JobRecord.of(job)
    lease = claimed(store, job)
    assert store.withdraw(refused, "too late") is None
    store.give_back(lease, HandBack.DRAINED)
    assert store.withdraw(refused, "too late") is None


def test_who_withdraws_a_retry_leaves_a_later_one_alone(store, job) -> None:
    queued(store, job)
    store.stop(job.id, "enough")
    refused = store.retry(job.id)
    assert refused is not None
    store.stop(job.id, "enough")
    accepted = store.retry(job.id)
    assert accepted is not None
    assert store.withdraw(refused, "not queued") is None
    store.queued(refused, 98)
    assert store.get(job.id) == accepted


def test_a_job_that_nobody_will_run_is_abandoned_unless_something_happens_to_it(store, job) -> None:
    seen = claimed(store, job).record
    lease = claimed(store, job)
    assert store.abandon(seen, "lost") is None
    record = store.abandon(lease.record, "lost")
    assert record is not None
    assert (record.state, record.reason) == (JobState.FAILED, "lost")


def test_the_history_of_a_record_is_all_that_happened_to_the_job(store, job) -> None:
    queued(store, job)
    store.give_back(claimed(store, job), HandBack.ERROR)
    lease = claimed(store, job)
    ended = store.finish(lease, JobState.SUCCEEDED, "", done(lease))
    history = store.history(job.id)
    assert [(record.state, record.attempt) for _, record in history] == [
        ("Queued", 0),
        ("Running", 1),
        ("Queued", 1),
        ("Running", 2),
        ("Succeeded", 2),
    ]
    assert history[-1] == (lease.revision, ended)
    revisions = [revision for revision, _ in history]
    assert revisions == sorted(revisions)
    assert store.last_revision() == lease.revision


def test_fields_of_later_versions_are_left_out(job) -> None:
    record = JobRecord.of(job)
    data = json.loads(json.dumps(record.to_dict()))
    data["colour"] = "blue"
    data["steps"][0]["weight"] = 3
    assert JobRecord.from_dict(data) == record


def test_records_and_their_history_are_kept_as_long_as_the_store_was_told(
    store, job, connection
) -> None:
    queued(store, job)
    info = connection.run(connection.jetstream.stream_info(f"KV_{subjects.RECORD_BUCKET}"))
    assert info.config.max_age == 3600
    assert info.config.max_msgs_per_subject == HISTORY


def test_a_bucket_that_somebody_has_deleted_is_made_anew(own_server) -> None:
    from brokers.nats.connection import NatsConnection

    connection = NatsConnection(own_server.url)
    store = JobStore(connection, max_age=3600)
    job = Job(id="again", name="n", steps=())
    queued(store, job)
    connection.run(connection.jetstream.delete_stream(store.stream))
    assert claimed(store, job).attempt == 1
    connection.close()


def test_a_lease_is_asked_for_when_it_was_long_not_seen_to_hold(store, job) -> None:
    queued(store, job)
    lease = claimed(store, job)
    lease.held_at -= 2 * FRESH_SECONDS
    store.confirm(lease)
    assert monotonic() - lease.held_at < FRESH_SECONDS

    claimed(store, job, "another")
    store.confirm(lease)  # a moment ago it held
    lease.held_at -= 2 * FRESH_SECONDS
    with pytest.raises(AttemptLost):
        store.confirm(lease)


def test_whoever_changes_a_record_holds_it(store, job) -> None:
    queued(store, job)
    lease = claimed(store, job)
    lease.held_at = 0.0
    store.progress(lease, done(lease))
    assert monotonic() - lease.held_at < FRESH_SECONDS
