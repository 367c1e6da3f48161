"""Messages that are confirmed one by one, against real servers that die, refuse and fill up."""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.threading import Interrupt, raise_thread_exception

from brokers.embedded import EmbeddedNats
from brokers.nats import NatsBroker, requester
from brokers.nats.errors import (
    ConnectionClosed,
    JetStreamError,
    MessageTooLarge,
    NobodyAnswers,
    QueueFull,
)
from brokers.nats.protocol import Arrival
from brokers.nats.publisher import Publication, Publisher, check_answer
from brokers.nats.servers import Servers
from brokers.nats.wire import Wire
from tests.brokers.servers import ConfiguredNats, Peer, scripted


def message(text: str = "x") -> Message:
    return Message(queue_name="q", actor_name="a", args=(text,), kwargs={}, options={})


def answer(data: bytes, head: bytes = b"") -> Arrival:
    return Arrival("_INBOX.1", 1, "", head, data)


@pytest.fixture
def open_broker(nats_server: EmbeddedNats) -> Iterator[Callable[..., NatsBroker]]:
    brokers: list[NatsBroker] = []

    def open(**options: object) -> NatsBroker:
        options = {"url": nats_server.url, "namespace": f"p{uuid.uuid4().hex[:8]}", **options}
        brokers.append(NatsBroker(middleware=[], **options))  # type: ignore[arg-type]
        brokers[-1].declare_queue("q")
        return brokers[-1]

    yield open
    for broker in brokers:
        broker.close()


def ready(broker: NatsBroker) -> int:
    return broker.get_queue_message_counts("q")[0]


def fds() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# What the server answers


@pytest.mark.parametrize(
    ("data", "head", "error"),
    [
        (b'{"stream":"S","seq":1}', b"", None),
        (b'{"seq":1,"stream":"S","duplicate":true}', b"", None),
        (b"", b"NATS/1.0 503\r\n\r\n", NobodyAnswers),
        (b"", b"", ConnectionClosed),
        (b"thanks!", b"", ConnectionClosed),
        (b"[1]", b"", ConnectionClosed),
        (b"{}", b"", ConnectionClosed),
        (b'{"error":"text"}', b"", ConnectionClosed),
        (b'{"error":{"code":503,"err_code":10077,"description":"disk"}}', b"", ConnectionClosed),
        (b'{"error":{"code":503,"err_code":10077,"description":"maximum x"}}', b"", QueueFull),
        (b'{"error":{"code":500,"err_code":10047,"description":"x"}}', b"", QueueFull),
        (b'{"stream":"S","error":{"code":400,"err_code":1}}', b"", JetStreamError),
    ],
)
def test_only_a_stream_confirms(data, head, error):
    if error is None:
        check_answer(answer(data, head))
    else:
        with pytest.raises(error):
            check_answer(answer(data, head))


def test_somebody_else_who_answers_is_not_taken_for_a_stream(nats_server, connection):
    async def listen() -> object:
        async def reply(received) -> None:
            await received.respond(b"thanks!")

        return await connection.client.subscribe("someone.else", cb=reply)

    connection.run(listen())
    servers, declared = Servers(nats_server.url), []
    sender = Publisher(lambda: Wire.open(servers), lambda: declared.append(1))
    with pytest.raises(ConnectionClosed, match="no stream"):
        sender.publish(Publication.of("someone.else", {}, b"x", "id"), 0.3)
    with pytest.raises(NobodyAnswers):
        sender.publish(Publication.of("nobody.at.all", {}, b"x", "id"), 0.3)
    assert declared
    sender.close()


def test_two_answers_to_one_message_are_no_error(monkeypatch):
    confirmation = b'{"stream":"S","seq":1}'

    def script(peer: Peer) -> None:
        peer.greet()
        peer.line()
        for _ in range(2):
            line = peer.line().split()
            peer._lines.read(int(line[-1]) + 2)
            peer.say(b"MSG %s 1 %d\r\n%s\r\n" % (line[2], len(confirmation), confirmation) * 2)

    with scripted(script) as url:
        sender = Publisher(lambda: Wire.open(Servers(url)), lambda: None)
        sender.publish_many([Publication.of("s", {}, b"x", f"{n}") for n in range(2)], 0)
        sender.close()


# What is too large, too much, or there already


@pytest.mark.parametrize("confirm", ["sync", "window"])
def test_a_message_that_is_too_large_is_never_sent(open_broker, confirm):
    broker = open_broker(confirm=confirm)
    with pytest.raises(MessageTooLarge):
        broker.enqueue(message("x" * 2_000_000))
    broker.enqueue(message())
    assert ready(broker) == 1


def test_nothing_is_sent_of_many_when_one_is_too_large(open_broker):
    broker = open_broker()
    many = [message() for _ in range(300)]
    with pytest.raises(MessageTooLarge):
        broker.enqueue_many([*many, message("x" * 2_000_000)])
    assert ready(broker) == 0
    broker.enqueue_many(many)
    assert ready(broker) == 300


def test_headers_count_for_the_size(tmp_path):
    with ConfiguredNats(tmp_path, "max_payload: 4096") as server:
        sender = Publisher(lambda: Wire.open(Servers(server.url)), lambda: None)
        for length in range(3_980, 4_100):
            with pytest.raises((MessageTooLarge, NobodyAnswers)):  # never "Maximum Payload"
                sender.publish(Publication.of("s", {}, b"x" * length, "id"), 0)
        sender.close()


def test_a_full_stream_refuses_and_takes_again_when_there_is_room(open_broker):
    broker = open_broker(max_bytes=100_000)
    with pytest.raises(QueueFull):
        for _ in range(1_000):
            broker.enqueue(message("x" * 1_000))
    before = ready(broker)
    assert 50 < before < 100
    broker.flush("q")
    broker.enqueue(message())
    assert ready(broker) == 1


def test_many_that_do_not_all_fit_are_refused_and_some_may_be_stored(open_broker):
    broker = open_broker(max_bytes=100_000)
    with pytest.raises(QueueFull):
        broker.enqueue_many([message("x" * 1_000) for _ in range(300)])
    assert 0 < ready(broker) < 100
    broker.flush("q")
    broker.enqueue_many([message(str(number)) for number in range(200)])
    assert ready(broker) == 200


def test_an_idempotent_message_is_stored_once(open_broker):
    broker = open_broker()
    one = message()
    for _ in range(3):
        broker.enqueue(one, idempotent=True)
    assert ready(broker) == 1
    for _ in range(2):
        broker.enqueue(one)
    assert ready(broker) == 3


def test_a_bounded_queue_refuses_and_takes_again_when_there_is_room(open_broker):
    broker = open_broker(max_queue_length=5)
    for _ in range(5):
        broker.enqueue(message())
    with pytest.raises(QueueFull):
        for _ in range(3):
            broker.enqueue(message())
    assert 5 <= ready(broker) <= 6
    broker.flush("q")
    broker.enqueue(message())


def test_a_stream_that_somebody_deleted_is_declared_again(open_broker, connection):
    broker = open_broker()
    broker.enqueue(message())
    connection.run(connection.jetstream.delete_stream(broker.names.stream))
    broker.enqueue(message())
    broker.enqueue_many([message(), message()])
    assert ready(broker) == 3


# Servers that die


def test_what_was_confirmed_survives_kills_and_is_stored_once(own_server, open_broker):
    broker = open_broker(url=own_server.url)
    broker.enqueue(message())
    confirmed, over = [1], threading.Event()

    def work() -> None:
        while not over.is_set():
            broker.enqueue(message())
            broker.enqueue_many([message(), message()])
            confirmed.append(3)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        goal = len(confirmed) + 20
        while len(confirmed) < goal:
            time.sleep(0.01)
        own_server.kill()
        own_server.start()
    over.set()
    for worker in workers:
        worker.join(20)
    assert ready(broker) == sum(confirmed)


def test_patience_ends_with_a_connection_error(own_server, monkeypatch):
    sender = Publisher(lambda: Wire.open(Servers(own_server.url)), lambda: None)
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(dramatiq.errors.ConnectionFailed):
        sender.publish(Publication.of("s", {}, b"x", "id"), 0.5)
    assert 0.3 < time.monotonic() - began < 5


# The pool


def test_as_many_wires_are_kept_as_threads_publish_at_once_and_none_after_close(open_broker):
    before, threads = fds(), set(threading.enumerate())
    broker = open_broker()
    broker.enqueue(message())
    one = fds()

    def work() -> None:
        for _ in range(50):
            broker.enqueue(message())

    for _ in range(3):
        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert fds() - one <= 8
    assert ready(broker) == 1_201
    broker.close()
    assert set(threading.enumerate()) <= threads
    assert fds() <= before


def test_wires_that_are_idle_are_dropped(nats_server, open_broker, monkeypatch):
    broker = open_broker()
    broker.enqueue(message())
    before, barrier = fds(), threading.Barrier(6)

    def work() -> None:
        with broker._publisher._requester.line():
            barrier.wait()

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert fds() == before + 5
    idle = broker._publisher._requester._idle
    for line in list(idle)[:-1]:
        line.wire.used -= requester.IDLE_SECONDS
    broker.enqueue(message())
    assert fds() == before
    assert len(idle) == 1


def test_a_lame_wire_is_hung_up(nats_server):
    sender = requester.Requester(lambda: Wire.open(Servers(nats_server.url)))
    with sender.line() as line:
        line.wire.lame = True
    assert line.wire.closed
    assert not sender._idle


class Stop(Interrupt):
    """As Dramatiq's TimeLimit raises it in a worker thread."""


def test_an_interrupt_in_mid_publish_confuses_nobody(open_broker):
    broker = open_broker()
    broker.enqueue(message())
    before, count = fds(), [1]

    def work() -> None:
        while True:
            broker.enqueue(message())
            count[0] += 1

    def run() -> None:
        with suppress(Stop):
            work()

    for _ in range(50):
        worker, goal = threading.Thread(target=run), count[0] + 3
        worker.start()
        while count[0] < goal:
            time.sleep(0.001)
        raise_thread_exception(worker.ident, Stop)
        worker.join(10)
        assert not worker.is_alive()
    for _ in range(20):
        broker.enqueue(message())
    assert fds() <= before
    assert count[0] + 20 <= ready(broker) <= count[0] + 70


def test_whether_there_is_room_can_be_asked_without_taking_it(open_broker):
    broker = open_broker(max_queue_length=2)
    broker.check_length("q")  # of which nothing is known yet
    for _ in range(2):
        broker.enqueue(message())
    with pytest.raises(QueueFull):
        broker.check_length("q")
    broker.flush("q")
    for _ in range(3):
        broker.check_length("q")
    assert ready(broker) == 0
