"""Frames that are sent in the background, against real servers that die, refuse and forbid."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dramatiq.threading import Interrupt, raise_thread_exception

from brokers.embedded import EmbeddedNats
from brokers.nats import outbox as module
from brokers.nats import protocol
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import (
    ConnectionClosed,
    ConnectionFailed,
    MessageTooLarge,
    PermissionDenied,
)
from brokers.nats.outbox import Outbox, Post
from brokers.nats.protocol import Arrival
from brokers.nats.servers import Servers
from brokers.nats.wire import Wire
from tests.brokers.servers import ConfiguredNats, Peer, scripted

DENYING = """
authorization { users = [ { user: u, password: p, permissions: {
    publish: { deny: ["no.>"] }, subscribe: { deny: ["secret.>"] } } } ] }
"""
DEAF = """
authorization { users = [ { user: u, password: p, permissions: {
    publish: ">", subscribe: { deny: ["_INBOX.>"] } } } ] }
"""


def confirmed(post: Post, arrival: Arrival) -> bool:
    return not arrival.data.startswith(b'{"stream"')


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happens"
        threading.Event().wait(0.01)


class Stream:
    """A stream of its own on a server, and what it holds."""

    def __init__(self, url: str) -> None:
        self.connection = NatsConnection(url)
        self.connection.run(self.connection.jetstream.add_stream(name="S", subjects=["s.>"]))

    def length(self) -> int:
        async def count() -> int:
            return int((await self.connection.jetstream.stream_info("S")).state.messages)

        return self.connection.patiently(count, 20)

    def contents(self) -> list[bytes]:
        async def read() -> list[bytes]:
            jetstream = self.connection.jetstream
            state = (await jetstream.stream_info("S")).state
            numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            return [(await jetstream.get_msg("S", number)).data or b"" for number in numbers]

        return self.connection.patiently(read, 20)


@pytest.fixture
def stream(own_server: EmbeddedNats) -> Iterator[Stream]:
    stream = Stream(own_server.url)
    yield stream
    stream.connection.close()


@pytest.fixture
def open_outbox(own_server: EmbeddedNats) -> Iterator[Callable[..., Outbox]]:
    boxes: list[Outbox] = []

    def open(url: str = "", **options: object) -> Outbox:
        servers = Servers(url or own_server.url)
        options = {"name": "test", "judge": confirmed, **options}
        boxes.append(Outbox(lambda: Wire.open(servers), **options))  # type: ignore[arg-type]
        return boxes[-1]

    yield open
    for box in boxes:
        box.close(0)


def post(outbox: Outbox, number: int, **options: float) -> None:
    head = protocol.header_block({"Nats-Msg-Id": f"id-{number}"})
    outbox.post("s.x", b"%d" % number, head=head, **options)


def test_frames_survive_kills_of_the_server_are_stored_once_and_keep_their_order(
    own_server, stream, open_outbox
):
    outbox = open_outbox(limit=200)

    def crash() -> None:
        for _ in range(3):
            own_server.kill()
            own_server.start()

    crasher = threading.Thread(target=crash)
    crasher.start()
    number = 0
    while crasher.is_alive() or number < 3_000:
        post(outbox, number, patience=20)
        number += 1
    crasher.join()
    assert outbox.drain(20) == 0
    stored = [int(data) for data in stream.contents()]
    assert sorted(stored) == list(range(number))
    assert stored == sorted(stored)


def test_frames_posted_while_no_server_is_there_are_sent_when_one_is(
    own_server, stream, open_outbox
):
    own_server.stop()
    outbox = open_outbox()
    for number in range(10):
        post(outbox, number)
    assert outbox.drain(0.1) == 10
    own_server.start()
    assert outbox.drain(20) == 0
    assert stream.contents() == [b"%d" % number for number in range(10)]


def test_a_full_outbox_makes_the_next_one_wait_and_then_fail(own_server, stream, open_outbox):
    outbox = open_outbox(limit=3)
    own_server.kill()
    for number in range(3):
        post(outbox, number)
    began = time.monotonic()
    with pytest.raises(ConnectionClosed, match="confirm"):
        post(outbox, 3, patience=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    waiting = threading.Thread(target=post, args=(outbox, 4), kwargs={"patience": 20})
    waiting.start()
    own_server.start()
    waiting.join(20)
    assert outbox.drain(20) == 0
    assert stream.contents() == [b"0", b"1", b"2", b"4"]


def test_what_is_never_confirmed_is_counted_and_closing_twice_does_not_wait_twice(
    own_server, stream, open_outbox
):
    before = threads()
    outbox = open_outbox()
    own_server.kill()
    post(outbox, 1)
    post(outbox, 2)
    assert outbox.close(0.2) == 2
    began = time.monotonic()
    assert outbox.close(30) == 2
    assert outbox.drain(30) == 2
    assert time.monotonic() - began < 5
    assert threads() <= before
    with pytest.raises(ConnectionClosed):
        post(outbox, 3)


def test_a_frame_that_nobody_takes_is_given_up_after_its_lifetime(own_server, open_outbox):
    outbox = open_outbox()
    outbox.post("nobody.listens", b"x", lifetime=0.4)
    assert outbox.drain(0.1) == 1
    assert outbox.drain(20) == 0


def test_a_frame_that_gets_no_answer_is_sent_again(monkeypatch, open_outbox):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.05)
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        assert peer.line().startswith(b"SUB ")
        while len(seen) < 3:
            seen.append(peer.line())
            peer.line()
        inbox = seen[0].split()[2]
        peer.say(b'MSG %s 1 22\r\n{"stream":"S","seq":1}\r\n' % inbox)

    with scripted(script) as url:
        outbox = open_outbox(url)
        outbox.post("s.x", b"payload")
        assert outbox.drain(10) == 0
        outbox.close(1)
    assert seen[0].startswith(b"PUB s.x _INBOX.")
    assert len(set(seen)) == 1


def test_what_may_not_be_published_is_refused_and_the_rest_goes_on(tmp_path, open_outbox):
    with ConfiguredNats(tmp_path, DENYING) as server:
        refusals: list[BaseException] = []
        url = server.url.replace("//", "//u:p@")
        stream = Stream(url)
        outbox = open_outbox(url, refused=refusals.append)
        for number in range(50):
            outbox.post("no.entry", b"x")
            post(outbox, number)
        assert outbox.drain(20) == 0
        assert len(refusals) == 50
        assert isinstance(refusals[0], PermissionDenied)
        assert stream.contents() == [b"%d" % number for number in range(50)]
        stream.connection.close()
        outbox.close(1)


def test_a_whisper_that_may_not_be_published_harms_nobody(tmp_path, open_outbox, caplog):
    with ConfiguredNats(tmp_path, DENYING) as server:
        url = server.url.replace("//", "//u:p@")
        stream = Stream(url)
        outbox = open_outbox(url)
        post(outbox, 0)
        assert outbox.drain(20) == 0
        wire = outbox._wire
        outbox.whisper([protocol.publication("no.entry", "", b"", b"x")])
        until(lambda: "no.entry" in caplog.text)
        post(outbox, 1)
        assert outbox.drain(20) == 0
        assert outbox._wire is wire
        stream.connection.close()
        outbox.close(1)


def test_who_may_not_hear_answers_is_told_so(tmp_path, open_outbox):
    with ConfiguredNats(tmp_path, DEAF) as server:
        refusals: list[BaseException] = []
        outbox = open_outbox(server.url.replace("//", "//u:p@"), refused=refusals.append)
        post(outbox, 1)
        until(lambda: bool(refusals))
        assert "Subscription" in str(refusals[0])
        assert outbox.close(0.1) == 1


def test_a_frame_that_a_server_does_not_take_any_more_is_refused(tmp_path, open_outbox):
    with ConfiguredNats(tmp_path, "max_payload: 4096") as server:
        refusals: list[BaseException] = []
        stream = Stream(server.url)
        server.kill()
        outbox = open_outbox(server.url, refused=refusals.append)
        outbox.post("s.x", b"x" * 5_000)
        post(outbox, 1)
        server.start()
        assert outbox.drain(20) == 0
        assert [type(error) for error in refusals] == [MessageTooLarge]
        outbox.post("s.x", b"x" * 5_000)
        assert outbox.drain(20) == 0
        assert len(refusals) == 2
        assert stream.contents() == [b"1"]
        stream.connection.close()
        outbox.close(1)


def test_an_answer_that_nobody_understands_does_not_end_the_reader(own_server, stream, open_outbox):
    troubles = [ValueError("what?")]

    def judge(post: Post, arrival: Arrival) -> bool:
        if troubles:
            raise troubles.pop()
        return confirmed(post, arrival)

    outbox = open_outbox(judge=judge)
    for number in range(5):
        post(outbox, number)
    assert outbox.drain(20) == 0
    assert len(stream.contents()) == 5


def test_many_threads_post_and_wait_at_once(own_server, stream, open_outbox):
    outbox = open_outbox(limit=50)
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(300):
                post(outbox, thread * 1_000 + number)
                outbox.drain(0 if number % 3 else 20)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert outbox.drain(20) == 0
    assert len(set(stream.contents())) == 1_800


class Stop(Interrupt):
    """As Dramatiq's TimeLimit raises it in a worker thread."""


def interrupted(work: Callable[[], None], begun: Callable[[], bool]) -> threading.Thread:
    """Somewhere in `work`, as soon as it has begun."""

    def run() -> None:
        with suppress(Stop):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    until(begun, 5)
    raise_thread_exception(thread.ident, Stop)
    thread.join(10)
    assert not thread.is_alive(), "the lock was left taken"
    return thread


def no_wire() -> Wire:
    raise ConnectionFailed("nobody is there")


def test_an_interrupt_leaves_the_lock_free():
    for _ in range(60):
        outbox, begun = Outbox(no_wire, name="test", judge=confirmed), threading.Event()

        def work(outbox: Outbox = outbox, begun: threading.Event = begun) -> None:
            while True:
                outbox.whisper(())
                begun.set()

        interrupted(work, begun.is_set)
        other = threading.Thread(target=outbox.whisper, args=((),), daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive(), "the lock was left taken"


def test_interrupts_of_those_who_post_lose_nothing_that_was_posted(stream, open_outbox):
    outbox = open_outbox(limit=100)
    count = [0]

    def work() -> None:
        while True:
            post(outbox, count[0], patience=20)
            count[0] += 1

    for _ in range(100):
        interrupted(work, lambda goal=count[0] + 5: count[0] >= goal)
    assert outbox.drain(20) == 0
    assert count[0] <= stream.length() <= count[0] + 1


def test_a_forked_child_has_an_outbox_of_its_own(own_server, stream, open_outbox):
    outbox = open_outbox()
    own_server.kill()
    for number in range(5):
        post(outbox, number)
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        code = 1
        try:
            signal.alarm(20)
            assert outbox._left_of(1 << 60) == 0
            outbox.post("s.x", b"child", head=protocol.header_block({"Nats-Msg-Id": "child"}))
            code = outbox.drain(15)
        finally:
            os._exit(code)
    own_server.start()
    assert os.waitpid(child, 0)[1] == 0
    assert outbox.drain(20) == 0
    assert sorted(stream.contents()) == [b"0", b"1", b"2", b"3", b"4", b"child"]


def test_a_server_that_is_about_to_leave_is_left(tmp_path: Path, open_outbox):
    with EmbeddedNats(tmp_path / "one") as one, EmbeddedNats(tmp_path / "two") as two:
        streams = [Stream(one.url), Stream(two.url)]
        outbox = open_outbox(f"{one.url},{two.url}")
        post(outbox, 0)
        assert outbox.drain(20) == 0
        first = next(server for server, s in zip((one, two), streams, strict=True) if s.contents())
        os.kill(first.pid, signal.SIGUSR2)
        old = outbox._wire
        until(lambda: outbox._wire is not old)
        first.kill()
        post(outbox, 1)
        assert outbox.drain(20) == 0
        for stream in streams:
            stream.connection.close()
        outbox.close(1)
