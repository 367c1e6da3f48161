"""What jobs tell, on the wire and read back."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import nats
import pytest

from brokers import subjects
from brokers.events import MAX_REASON, Events
from brokers.job_store import JobStore
from brokers.log_reader import LogMessage, LogReader, as_slots
from brokers.nats.connection import NatsConnection
from brokers.records import JobRecord
from executors.job import Job, JobState, LogBatch, LogEntry, OutputStream

TIME = "2026-01-01T00:00:00.000000Z"


class Story:
    """One job, and everything that tells and reads of it."""

    def __init__(self, connection: NatsConnection) -> None:
        self.connection = connection
        self.job = Job(id=str(uuid.uuid4()), name="n", steps=())
        self.store = JobStore(connection, max_age=3600)
        self.events = Events(connection, max_age=3600)
        self.reader = LogReader(connection, self.store, self.events)
        self.sequence = 0

    @property
    def id(self) -> str:
        return self.job.id

    def claim(self) -> JobRecord:
        lease = self.store.claim(self.job, "w")
        assert lease is not None
        self.lease = lease
        return lease.record

    def entered(self, state: JobState, **fields: Any) -> None:
        """Say so, whatever the record says."""
        self.events.changed(replace(JobRecord.of(self.job), state=state, **fields))

    def log(self, *lines: str, step: int = 0, attempt: int = 1) -> LogBatch:
        batch = LogBatch(
            job_id=self.id,
            attempt=attempt,
            step=step,
            container_id=f"c{step}",
            sequence=self.sequence,
            entries=tuple(LogEntry(TIME, line, OutputStream.STDOUT) for line in lines),
        )
        self.sequence += 1
        self.events.log(batch)
        return batch

    def finish(self, record: JobRecord, state: JobState = JobState.SUCCEEDED) -> JobRecord:
        assert record.attempt == self.lease.attempt
        return self.store.finish(self.lease, state, "", ())


@pytest.fixture
def story(connection) -> Story:
    return Story(connection)


def lines_of(items: list[Any]) -> list[str]:
    logs = [item for item in items if isinstance(item, LogMessage)]
    return [entry["message"] for item in logs for entry in item.body["logs"] or []]


class Follower:
    """Follows a job from a thread of its own."""

    def __init__(self, story: Story, **options: Any) -> None:
        self.items: list[Any] = []
        self._arrived: SimpleQueue[Any] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, args=(story, options))
        self.thread.start()

    def _run(self, story: Story, options: dict[str, Any]) -> None:
        for item in story.reader.follow(story.id, **options):
            self.items.append(item)
            self._arrived.put(item)

    def until(self, wanted: Callable[[Any], bool]) -> Any:
        while not wanted(item := self._arrived.get(timeout=60)):
            pass
        return item

    def ended(self) -> list[Any]:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.items


def is_log(item: Any) -> bool:
    return isinstance(item, LogMessage)


@pytest.fixture
def core(nats_server) -> Iterator[Callable[[str], list[Any]]]:
    """A client without JetStream; called with a subject, it returns what it hears from then on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    client = run(nats.connect(nats_server.url))

    def listen(subject: str) -> Callable[[], Any]:
        async def subscribe() -> Any:
            subscription = await client.subscribe(subject)
            await client.flush()
            return subscription

        subscription = run(subscribe())
        return lambda: run(subscription.next_msg(timeout=5))

    yield listen
    run(client.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# On the wire


def test_a_log_batch_has_the_seeds_json_and_our_headers(story, core) -> None:
    heard = core(f"hades.logs.{story.id}")
    batch = LogBatch(
        job_id=story.id,
        attempt=2,
        step=1,
        container_id="c0ffee",
        sequence=7,
        entries=(
            LogEntry(TIME, "Grüße", OutputStream.STDOUT),
            LogEntry(TIME, "", OutputStream.STDERR),
        ),
    )
    story.events.log(batch)
    message = heard()
    assert json.loads(message.data) == {
        "job_id": story.id,
        "container_id": "c0ffee",
        "logs": [
            {"timestamp": TIME, "message": "Grüße", "output_stream": "stdout"},
            {"timestamp": TIME, "message": "", "output_stream": "stderr"},
        ],
    }
    assert message.headers == {
        "X-Hades-Attempt": "2",
        "X-Hades-Step": "1",
        "X-Hades-Sequence": "7",
        "Nats-Msg-Id": f"{story.id}-2-log-7",
    }


def test_the_message_that_registers_a_slot_has_null_for_its_lines(story, core) -> None:
    heard = core(f"hades.logs.{story.id}")
    story.log()
    body = json.loads(heard().data)
    assert body == {"job_id": story.id, "container_id": "c0", "logs": None}


@pytest.mark.parametrize("state", list(JobState))
def test_a_plain_subscriber_hears_the_state_with_the_id_as_text(story, core, state) -> None:
    heard = core(f"hades.jobstatus.{state.value}")
    story.entered(state, attempt=1)
    message = heard()
    assert message.data.decode() == story.id
    assert subjects.REASON_HEADER not in message.headers


def test_the_reason_travels_in_a_header_of_one_line(story, core) -> None:
    heard = core("hades.jobstatus.Failed")
    story.entered(JobState.FAILED, reason="exited\r\nwith  status 1")
    assert heard().headers["X-Hades-Reason"] == "exited with status 1"


def test_a_long_reason_is_cut_where_the_seed_cuts_it(story, connection) -> None:
    story.entered(JobState.FAILED, reason="x" * 1000)
    request = b'{"last_by_subj": "hades.jobstatus.Failed"}'
    answer: Any = connection.run(
        connection.client.request("$JS.API.STREAM.MSG.GET.HADES_JOB_STATUS", request)
    )
    headers = base64.b64decode(json.loads(answer.data)["message"]["hdrs"]).decode()
    assert f"X-Hades-Reason: {'x' * MAX_REASON}…\r\n" in headers


def last(connection: NatsConnection, stream: str, subject: str) -> Any:
    return connection.run(connection.jetstream.get_last_msg(stream, subject))


def test_states_are_kept_in_their_stream(story, connection) -> None:
    story.entered(JobState.STOPPED)
    stored = last(connection, "HADES_JOB_STATUS", "hades.jobstatus.Stopped")
    assert stored.data.decode() == story.id


def test_the_result_is_the_jobs_record(story, connection) -> None:
    record = story.finish(story.claim())
    story.events.ended(record)
    stored = last(connection, "HADES_JOB_RESULTS", f"hades.results.{story.id}")
    assert JobRecord.from_dict(json.loads(stored.data)) == record == story.store.get(story.id)


def count(connection: NatsConnection, stream: str, subject: str) -> int:
    info: Any = connection.run(connection.jetstream.stream_info(stream, subject))
    return sum((info.state.subjects or {}).values())


def test_what_is_published_twice_is_kept_once(story, connection) -> None:
    record = story.finish(story.claim())
    batch = story.log("once")
    subject = "hades.jobstatus.Succeeded"
    before = count(connection, subjects.STATUS_STREAM, subject) if record else 0
    for _ in range(3):
        story.events.log(batch)
        story.events.ended(record)
    assert count(connection, subjects.LOG_STREAM, subjects.logs(story.id)) == 1
    assert count(connection, subjects.RESULT_STREAM, subjects.results(story.id)) == 1
    assert count(connection, subjects.STATUS_STREAM, subject) == before + 1


def test_the_same_state_of_another_attempt_is_kept_too(story, connection) -> None:
    subject = "hades.jobstatus.Running"
    story.events.declare()
    before = count(connection, subjects.STATUS_STREAM, subject)
    for attempt in (1, 2):
        story.entered(JobState.RUNNING, attempt=attempt)
    assert count(connection, subjects.STATUS_STREAM, subject) == before + 2


def test_streams_forget_after_the_time_they_were_told(story, connection) -> None:
    story.events.declare()
    for stream in (subjects.LOG_STREAM, subjects.STATUS_STREAM, subjects.RESULT_STREAM):
        assert connection.run(connection.jetstream.stream_info(stream)).config.max_age == 3600


# Read back


def test_an_unknown_job_has_an_empty_log(story) -> None:
    assert story.reader.read(story.id) == []


@pytest.mark.parametrize("job_id", ["*", ">", "a.b", "a b", "a\r\nb"])
def test_a_job_id_from_outside_is_never_a_wildcard(story, job_id) -> None:
    story.log("private")
    assert story.reader.read(job_id) == []


def test_a_log_reads_back_in_order(story) -> None:
    story.log()
    story.log("one", "two")
    story.log("three", step=1)
    messages = story.reader.read(story.id)
    assert lines_of(messages) == ["one", "two", "three"]
    assert [message.step for message in messages] == [0, 0, 1]
    assert as_slots(messages) == [
        {"job_id": story.id, "container_id": "c0", "logs": entries("one", "two")},
        {"job_id": story.id, "container_id": "c1", "logs": entries("three")},
    ]


def entries(*lines: str) -> list[dict[str, str]]:
    return [{"timestamp": TIME, "message": line, "output_stream": "stdout"} for line in lines]


def test_a_silent_step_reads_back_as_an_empty_slot(story) -> None:
    story.log()
    assert as_slots(story.reader.read(story.id)) == [
        {"job_id": story.id, "container_id": "c0", "logs": []}
    ]


def test_only_the_latest_attempt_is_read(story) -> None:
    story.log("first try")
    story.log("second try", attempt=2)
    assert lines_of(story.reader.read(story.id)) == ["second try"]


def test_a_long_log_is_read_in_several_pieces(story) -> None:
    lines = [str(number) for number in range(1203)]
    for line in lines:
        story.log(line)
    assert lines_of(story.reader.read(story.id)) == lines


def test_a_log_of_many_megabytes_is_read_whole(story) -> None:
    lines = ["é" * 30_000 + str(number) for number in range(600)]
    for start in range(0, 600, 3):
        story.log(*lines[start : start + 3])
    assert lines_of(story.reader.read(story.id)) == lines


def test_following_brings_what_is_there_then_what_comes_then_the_end(story) -> None:
    record = story.claim()
    story.log("before")
    follower = Follower(story)
    follower.until(is_log)
    story.log("after")
    follower.until(is_log)
    ended = story.finish(record)
    items = follower.ended()
    assert lines_of(items) == ["before", "after"]
    assert items[-1] == ended
    assert record in items


def test_following_tells_when_the_state_changes(story) -> None:
    story.store.create(JobRecord.of(story.job))
    follower = Follower(story)
    follower.until(lambda item: isinstance(item, JobRecord) and item.state is JobState.QUEUED)
    record = story.claim()
    follower.until(lambda item: item == record)
    ended = story.finish(record, JobState.FAILED)
    assert follower.ended()[-1] == ended


def test_a_job_that_is_over_is_told_at_once_and_completely(story) -> None:
    record = story.claim()
    for number in range(120):
        story.log(str(number))
    ended = story.finish(record)
    items = list(story.reader.follow(story.id))
    assert lines_of(items) == [str(number) for number in range(120)]
    assert items[-1] == ended
    assert items.count(ended) == 1


def test_a_job_that_is_over_without_a_log_ends_at_once(story) -> None:
    ended = story.finish(story.claim())
    assert list(story.reader.follow(story.id)) == [ended]


def test_a_reader_that_comes_back_goes_on_where_it_was(story) -> None:
    record = story.claim()
    for line in ("one", "two", "three"):
        story.log(line)
    first = next(item for item in story.reader.follow(story.id) if is_log(item))
    ended = story.finish(record)
    items = list(story.reader.follow(story.id, after=first.sequence))
    assert lines_of(items) == ["two", "three"]
    last_sequence = max(item.sequence for item in items if is_log(item))
    assert list(story.reader.follow(story.id, after=last_sequence)) == [ended]


def test_an_unknown_job_cannot_be_followed(story) -> None:
    with pytest.raises(LookupError):
        next(story.reader.follow(story.id))


def test_silence_is_told(story) -> None:
    story.claim()
    with closing(story.reader.follow(story.id, idle=0.05)) as items:
        assert any(item is None for item in items)


def test_the_last_lines_come_before_the_end_every_time(connection) -> None:
    for _ in range(20):
        story = Story(connection)
        record = story.claim()
        follower = Follower(story)
        follower.until(lambda item: isinstance(item, JobRecord))
        for number in range(10):
            story.log(str(number))
        ended = story.finish(record)
        items = follower.ended()
        assert lines_of(items) == [str(number) for number in range(10)]
        assert items[-1] == ended


def test_a_rejected_write_of_a_lost_attempt_is_not_told(story, connection) -> None:
    record = story.claim()
    follower = Follower(story, idle=0.2)
    follower.until(lambda item: item == record)
    lie = json.dumps({**record.to_dict(), "state": "Failed"}).encode()
    with pytest.raises(Exception, match="wrong last sequence"):
        connection.publish(
            story.store.subject(story.id),
            lie,
            headers={"Nats-Expected-Last-Subject-Sequence": "1"},
        )
    follower.until(lambda item: item is None)
    ended = story.finish(record)
    items = follower.ended()
    assert [item for item in items if isinstance(item, JobRecord)] == [record, ended]


def consumers(connection: NatsConnection, stream: str) -> int:
    return connection.run(connection.jetstream.stream_info(stream)).state.consumer_count


def test_a_reader_that_goes_away_leaves_nothing_behind(own_server) -> None:
    connection = NatsConnection(own_server.url)
    story = Story(connection)
    story.claim()
    story.log("one")
    story.reader.read(story.id)
    before = len(connection.client._subs)
    for _ in range(5):
        with closing(story.reader.follow(story.id)) as items:
            assert any(is_log(item) for item in items)
    for stream in (subjects.LOG_STREAM, story.store.stream):
        while consumers(connection, stream):  # they end on the loop, soon
            threading.Event().wait(0.01)
    assert len(connection.client._subs) == before
    assert not connection._reconnected
    connection.close()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_following_survives_a_restart_of_the_server(own_server, way) -> None:
    connection = NatsConnection(own_server.url)
    story = Story(connection)
    record = story.claim()
    story.log("before")
    follower = Follower(story)
    follower.until(is_log)
    getattr(own_server, way)()
    own_server.start()
    story.log("after")
    follower.until(is_log)
    ended = story.finish(record)
    items = follower.ended()
    assert lines_of(items) == ["before", "after"]
    assert items[-1] == ended
    connection.close()


def test_an_end_that_is_written_while_the_reader_is_cut_off_is_still_told(own_server) -> None:
    connection, other = NatsConnection(own_server.url), NatsConnection(own_server.url)
    story = Story(connection)
    record = story.claim()
    follower = Follower(story)
    follower.until(lambda item: item == record)
    connection.run(connection.client.force_reconnect())
    ended = JobStore(other, max_age=3600).finish(story.lease, JobState.SUCCEEDED, "", ())
    assert follower.ended()[-1] == ended
    connection.close()
    other.close()


def test_a_log_stream_that_somebody_has_deleted_is_made_anew(own_server) -> None:
    connection = NatsConnection(own_server.url)
    story = Story(connection)
    story.log("lost")
    connection.run(connection.jetstream.delete_stream(subjects.LOG_STREAM))
    story.log("kept")
    assert lines_of(story.reader.read(story.id)) == ["kept"]
    connection.close()
