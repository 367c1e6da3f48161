"""Bytes in, batches of lines out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from executors.job import LogBatch, LogEntry, OutputStream
from executors.logs import (
    MAX_BATCH_CHARS,
    MAX_BATCH_ENTRIES,
    MAX_LINE,
    MAX_PENDING_CHARS,
    TAIL_ENTRIES,
    LineSink,
    LogBatcher,
    now,
)

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR
PLENTY = 1 << 40


class Published:
    """What a batcher has published; `first` is set with the first line."""

    def __init__(self) -> None:
        self.batches: list[LogBatch] = []
        self.first = threading.Event()

    def __call__(self, batch: LogBatch) -> None:
        self.batches.append(batch)
        if batch.entries:
            self.first.set()

    @property
    def lines(self) -> list[str]:
        return [entry.message for entry in self.entries]

    @property
    def entries(self) -> list[LogEntry]:
        return [entry for batch in self.batches for entry in batch.entries]


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def batcher(published: Published) -> Iterator[LogBatcher]:
    batcher = LogBatcher("a-job", 2, published)
    yield batcher
    batcher.close()


@pytest.fixture
def sink(batcher: LogBatcher) -> LineSink:
    sink = LineSink(batcher, 0, limit=PLENTY)
    sink.open("c1")
    return sink


@pytest.fixture
def lines(batcher: LogBatcher, sink: LineSink, published: Published) -> Callable[..., list[str]]:
    """The lines that come out of these writes to standard output."""

    def run(*writes: bytes) -> list[str]:
        for data in writes:
            sink.write(OUT, data)
        sink.close()
        batcher.close()
        return published.lines

    return run


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\nt", b"wo", b"\n"], ["one", "two"]),
        ([b"one\r\ntwo\r", b"\n"], ["one", "two"]),
        ([b"50%\r100%\n"], ["50%\r100%"]),
        ([b"\n\n  indented \n\n"], ["", "", "  indented ", ""]),
        ([b"no newline"], ["no newline"]),
        ([], []),
        (["café\n".encode()[:4], "café\n".encode()[4:]], ["café"]),
        (["日本\n".encode()[n : n + 1] for n in range(7)], ["日本"]),
        ([b"\xff\xfe\x00bin\n"], ["\ufffd\ufffd\x00bin"]),
        ([b"cut \xe6\x97"], ["cut \ufffd"]),
        ([b"x" * MAX_LINE, b"\n"], ["x" * MAX_LINE]),
    ],
)
def test_bytes_become_lines_wherever_they_are_cut(lines, writes, expected) -> None:
    assert lines(*writes) == expected


@pytest.mark.parametrize("chunk", [1 << 30, 32 * 1024, MAX_LINE, MAX_LINE + 1])
def test_a_line_of_five_mebibytes_becomes_several_entries_and_loses_nothing(lines, chunk) -> None:
    data = bytes(ord("a") + n % 26 for n in range(5 * 1024 * 1024)) + b"\n"
    pieces = lines(*(data[start : start + chunk] for start in range(0, len(data), chunk)))
    assert "".join(pieces).encode() == data[:-1]
    assert max(map(len, pieces)) == MAX_LINE
    assert all(pieces)


def test_both_outputs_keep_their_own_unfinished_lines(sink, batcher, published) -> None:
    sink.write(OUT, b"to be ")
    sink.write(ERR, b"an error\n")
    sink.write(OUT, b"continued\n")
    sink.close()
    batcher.close()
    told = [(entry.message, entry.output_stream) for entry in published.entries]
    assert told == [("an error", ERR), ("to be continued", OUT)]


def test_a_silent_step_has_its_slot(sink, batcher, published) -> None:
    sink.close()
    batcher.close()
    [batch] = published.batches
    assert (batch.step, batch.container_id, batch.entries) == (0, "c1", ())


def test_a_step_that_never_started_has_a_slot_and_its_reason(batcher, published) -> None:
    sink = LineSink(batcher, 4, limit=PLENTY)
    sink.say("hades: there is no such image")
    sink.close()
    batcher.close()
    assert {(batch.step, batch.container_id) for batch in published.batches} == {(4, "step-5")}
    [entry] = published.entries
    assert (entry.message, entry.output_stream) == ("hades: there is no such image", ERR)


def test_our_own_line_does_not_join_one_that_lacks_its_newline(sink, batcher, published) -> None:
    sink.write(ERR, b"half")
    sink.say("hades: out of memory")
    sink.close()
    batcher.close()
    assert published.lines == ["half", "hades: out of memory"]


def test_batches_are_numbered_in_order_and_never_mix_steps(batcher, published) -> None:
    for step in range(3):
        sink = LineSink(batcher, step, limit=PLENTY)
        sink.open(f"c{step}")
        for number in range(5):
            sink.write(OUT, f"{step}.{number}\n".encode())
        sink.close()
    batcher.close()
    assert [batch.sequence for batch in published.batches] == list(range(len(published.batches)))
    assert {(batch.job_id, batch.attempt) for batch in published.batches} == {("a-job", 2)}
    assert published.lines == [f"{step}.{number}" for step in range(3) for number in range(5)]
    for batch in published.batches:
        assert batch.container_id == f"c{batch.step}"
        assert all(entry.message.startswith(f"{batch.step}.") for entry in batch.entries)


def test_the_first_line_goes_out_while_the_step_still_runs(sink, published) -> None:
    sink.write(OUT, b"here I am\n")
    assert published.first.wait(10)


def test_lines_that_come_together_share_a_batch(sink, batcher, published) -> None:
    sink.write(OUT, b"".join(b"%d\n" % number for number in range(3 * MAX_BATCH_ENTRIES)))
    sink.close()
    batcher.close()
    assert published.lines == [str(number) for number in range(3 * MAX_BATCH_ENTRIES)]
    assert max(len(batch.entries) for batch in published.batches) <= MAX_BATCH_ENTRIES
    assert len(published.batches) < MAX_BATCH_ENTRIES


def test_no_batch_is_larger_than_a_message_may_be(sink, batcher, published) -> None:
    sink.write(OUT, (b"y" * 30_000 + b"\n") * 40)
    sink.close()
    batcher.close()
    assert len(published.lines) == 40
    for batch in published.batches:
        assert sum(len(entry.message) for entry in batch.entries) <= MAX_BATCH_CHARS


def test_timestamps_do_not_go_back(sink, batcher, published) -> None:
    for number in range(50):
        sink.write(OUT, b"%d\n" % number)
    sink.close()
    batcher.close()
    times = [entry.timestamp for entry in published.entries]
    assert times == sorted(times)
    assert times[0].endswith("Z")
    assert len(times[0]) == len("2026-01-01T00:00:00.000000Z")


@pytest.mark.parametrize("line", [b"z" * 1000 + b"\n", b"\n"], ids=["long lines", "empty lines"])
def test_a_step_waits_while_nothing_can_be_published_and_loses_nothing(line) -> None:
    gate, published = threading.Event(), Published()

    def publish(batch: LogBatch) -> None:
        gate.wait(60)
        published(batch)

    batcher = LogBatcher("a-job", 1, publish)
    sink = LineSink(batcher, 0, limit=PLENTY)
    count = 2 * MAX_PENDING_CHARS // (len(line) + 99)
    written = threading.Event()

    def write() -> None:
        for _ in range(count):
            sink.write(OUT, line)
        sink.close()
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not written.wait(2)
    gate.set()
    writer.join(60)
    batcher.close()
    assert len(published.lines) == count


def test_an_error_of_publishing_reaches_whoever_adds_and_whoever_closes() -> None:
    def publish(batch: LogBatch) -> None:
        raise ConnectionError("NATS is gone")

    batcher = LogBatcher("a-job", 1, publish)

    def add_until_it_raises() -> None:
        while True:
            batcher.add(0, "c", LogEntry(now(), "line", OUT))

    with pytest.raises(ConnectionError, match="NATS is gone"):
        add_until_it_raises()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="NATS is gone"):
            batcher.close()


def test_an_error_of_publishing_frees_a_step_that_waits() -> None:
    gate = threading.Event()

    def publish(batch: LogBatch) -> None:
        gate.wait(60)
        raise ConnectionError("NATS is gone")

    batcher = LogBatcher("a-job", 1, publish)
    blocked, raised = threading.Event(), threading.Event()

    def write() -> None:
        try:
            for _ in range(3):
                batcher.add(0, "c", LogEntry(now(), "x" * (MAX_PENDING_CHARS // 2), OUT))
            blocked.set()
            batcher.add(0, "c", LogEntry(now(), "one too many", OUT))
        except ConnectionError:
            raised.set()

    writer = threading.Thread(target=write)
    writer.start()
    blocked.wait(1)
    gate.set()
    assert raised.wait(10)
    writer.join(10)
    with pytest.raises(ConnectionError):
        batcher.close()


def test_a_closed_batcher_leaves_no_thread(batcher) -> None:
    batcher.close()
    batcher.close()
    assert "logs-a-job" not in {thread.name for thread in threading.enumerate()}


def test_beyond_the_limit_head_and_tail_are_kept_around_one_exact_marker(batcher, published):
    sink = LineSink(batcher, 0, limit=100 * 6)  # a hundred lines of five characters
    sink.open("c1")
    for number in range(1000):
        sink.write(OUT, b"%05d\n" % number)
    sink.close()
    batcher.close()
    [marker] = [line for line in published.lines if line.startswith("hades:")]
    at = published.lines.index(marker)
    head, tail = published.lines[:at], published.lines[at + 1 :]
    assert head == [f"{number:05}" for number in range(100)]
    assert tail == [f"{number:05}" for number in range(1000 - TAIL_ENTRIES, 1000)]
    assert marker == f"hades: the log is cut here, {1000 - 100 - TAIL_ENTRIES} lines are left out"
    assert published.entries[at].output_stream is ERR


def test_a_little_beyond_the_limit_nothing_is_missing_and_no_marker_says_so(batcher, published):
    sink = LineSink(batcher, 0, limit=60)
    sink.open("c1")
    for number in range(10 + TAIL_ENTRIES):
        sink.write(OUT, b"%05d\n" % number)
    sink.close()
    batcher.close()
    assert published.lines == [f"{number:05}" for number in range(10 + TAIL_ENTRIES)]


def test_the_limit_holds_for_empty_lines_too(batcher, published) -> None:
    sink = LineSink(batcher, 0, limit=10)
    sink.open("c1")
    sink.write(OUT, b"\n" * 1000)
    sink.close()
    batcher.close()
    assert len(published.lines) == 10 + 1 + TAIL_ENTRIES
