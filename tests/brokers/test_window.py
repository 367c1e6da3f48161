"""Messages that are confirmed later, against real servers that die, refuse and forbid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dramatiq import Message
from dramatiq.errors import ConnectionClosed

from brokers.embedded import EmbeddedNats
from brokers.nats import NatsBroker
from brokers.nats import window as module
from brokers.nats.errors import JetStreamError, MessageTooLarge, PermissionDenied, QueueFull
from brokers.nats.publisher import Publication
from tests.brokers.servers import ConfiguredNats

ROOT = Path(__file__).parents[2]


def message(text: str = "x") -> Message:
    return Message(queue_name="q", actor_name="a", args=(text,), kwargs={}, options={})


def open_broker(url: str, **options: object) -> NatsBroker:
    options = {"namespace": f"w{uuid.uuid4().hex[:8]}", **options}
    broker = NatsBroker(url=url, confirm="window", middleware=[], **options)  # type: ignore[arg-type]
    broker.declare_queue("q")
    return broker


@pytest.fixture
def broker(nats_server: EmbeddedNats) -> Iterator[NatsBroker]:
    broker = open_broker(nats_server.url)
    yield broker
    broker.close()


@pytest.fixture
def own_broker(own_server: EmbeddedNats) -> Iterator[NatsBroker]:
    broker = open_broker(own_server.url, window=100)
    broker.enqueue(message())
    broker.wait_for_confirms(10_000)
    broker.flush("q")
    yield broker
    broker.close()


def ready(broker: NatsBroker) -> int:
    return broker.get_queue_message_counts("q")[0]


def consumed(broker: NatsBroker, count: int) -> list[str]:
    """What the first messages of the queue carry, in their order."""
    consumer = broker.consume("q", prefetch=count, timeout=10_000)
    messages = [next(consumer) for _ in range(count)]
    for each in messages:
        assert each is not None
        consumer.ack(each)
    consumer.close()
    return [each.args[0] for each in messages]


def test_messages_survive_kills_are_stored_once_and_keep_their_order(own_server, own_broker):
    over = threading.Event()

    def crash() -> None:
        for _ in range(3):
            own_server.kill()
            own_server.start()
        over.set()

    crasher = threading.Thread(target=crash)
    crasher.start()
    number = 0
    while not over.is_set() or number < 1_000:
        own_broker.enqueue(message(str(number)))
        number += 1
    crasher.join()
    own_broker.wait_for_confirms(20_000)
    assert ready(own_broker) == number
    assert consumed(own_broker, 1_000) == [str(each) for each in range(1_000)]


def test_a_full_window_waits_and_then_says_that_the_message_is_not_in_it(own_server, own_broker):
    own_server.kill()
    for number in range(100):
        own_broker.enqueue(message(str(number)))
    publication = Publication.of("s", {}, b"x", "id")
    with pytest.raises(ConnectionClosed):
        own_broker._window.publish(publication, 0.2)
    with pytest.raises(ConnectionClosed, match="100"):
        own_broker.wait_for_confirms(200)
    own_server.start()
    own_broker.wait_for_confirms(20_000)
    assert ready(own_broker) == 100


def test_what_is_never_confirmed_is_counted_when_the_broker_closes(own_server, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    threads = set(threading.enumerate()) - {threading.main_thread()}
    broker = open_broker(own_server.url)
    broker.enqueue(message())
    broker.wait_for_confirms(10_000)
    own_server.kill()
    for _ in range(3):
        broker.enqueue(message())
    with pytest.raises(ConnectionClosed, match="3 messages"):
        broker.close()
    began = time.monotonic()
    broker.close()
    broker._window.close()  # as at the interpreter's exit
    assert time.monotonic() - began < 5
    ours = {thread for thread in threading.enumerate() if thread.name.startswith("nats")}
    assert {thread for thread in ours if thread.name != "nats-server"} <= threads


def test_a_message_that_the_stream_refuses_is_told_by_the_next_call(nats_server):
    broker = open_broker(nats_server.url, max_bytes=50_000)
    with pytest.raises(QueueFull):
        for _ in range(200):
            broker.enqueue(message("x" * 1_000))
        broker.wait_for_confirms(10_000)
    with pytest.raises(QueueFull):
        while True:
            broker.wait_for_confirms(10_000)
            broker.enqueue(message("x" * 1_000))
    while True:
        try:
            broker.wait_for_confirms(10_000)
        except QueueFull:
            continue
        break
    broker.flush("q")
    broker.enqueue(message())
    assert ready(broker) == 1
    broker.close()


def test_a_refusal_that_nobody_has_asked_for_is_told_by_close(nats_server, caplog):
    broker = open_broker(nats_server.url, max_bytes=50_000)
    for _ in range(100):
        _, publication = broker._prepare(message("x" * 1_000), None, False)
        broker._window._outbox.post(publication.subject, publication.data, head=publication.head)
    with pytest.raises(ConnectionClosed, match="never confirmed"):
        broker.close()
    assert "a message was refused" in caplog.text


def test_what_may_not_be_published_is_told_and_the_rest_is_stored(tmp_path):
    config = """
    authorization { users = [ { user: u, password: p, permissions: {
        publish: { deny: ["*.q.forbidden.>"] } } } ] }
    """
    with ConfiguredNats(tmp_path, config) as server:
        broker = open_broker(server.url, user="u", password="p")
        broker.enqueue(message())
        broker.wait_for_confirms(10_000)
        broker.enqueue(message().copy(queue_name="forbidden"))
        with pytest.raises(PermissionDenied, match="forbidden"):
            broker.wait_for_confirms(10_000)
        broker.enqueue(message())
        broker.wait_for_confirms(10_000)
        assert ready(broker) == 2
        broker.close()


def test_a_message_that_is_too_large_is_refused_at_once(broker):
    with pytest.raises(MessageTooLarge):
        broker.enqueue(message("x" * 2_000_000))
    broker.enqueue(message())
    assert ready(broker) == 1


def test_an_idempotent_message_is_stored_once(broker):
    one = message()
    for _ in range(5):
        broker.enqueue(one, idempotent=True)
    broker.wait_for_confirms(10_000)
    assert ready(broker) == 1


def test_a_stream_that_somebody_deleted_is_declared_again(broker, connection):
    broker.enqueue(message())
    broker.wait_for_confirms(10_000)
    connection.run(connection.jetstream.delete_stream(broker.names.stream))
    began = time.monotonic()
    for _ in range(500):
        broker.enqueue(message())
    broker.wait_for_confirms(20_000)
    assert time.monotonic() - began < 10
    assert ready(broker) == 500


def test_a_stream_that_cannot_be_declared_does_not_end_the_window(broker, connection, monkeypatch):
    broker.enqueue(message())
    broker.wait_for_confirms(10_000)
    tried = threading.Event()

    def refuse() -> None:
        tried.set()
        raise JetStreamError("no right to")

    declare = broker._window._declare
    monkeypatch.setattr(broker._window, "_declare", refuse)
    monkeypatch.setattr(module, "DECLARE_SECONDS", 0.1)
    connection.run(connection.jetstream.delete_stream(broker.names.stream))
    broker.enqueue(message())
    assert tried.wait(10)
    monkeypatch.setattr(broker._window, "_declare", declare)
    broker.wait_for_confirms(20_000)
    assert ready(broker) == 1


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )


BURST = """
import sys
from dramatiq import Message
from brokers.nats import NatsBroker
broker = NatsBroker(url=sys.argv[1], namespace=sys.argv[2], confirm="window", middleware=[])
for number in range(int(sys.argv[3])):
    broker.enqueue(
        Message(queue_name="q", actor_name="a", args=(number,), kwargs={}, options={})
    )
"""


@pytest.mark.parametrize(
    "end", ["", "sys.exit(0)", "broker.close()", "broker.close(); broker.close()", "del broker"]
)
def test_a_program_that_ends_waits_for_its_confirmations(nats_server, broker, end):
    done = run_script(BURST + end, nats_server.url, broker.names.namespace, "2000")
    assert (done.returncode, done.stderr) == (0, "")
    assert ready(broker) == 2_000


def test_a_program_that_ends_unconfirmed_says_so(own_server):
    script = BURST.replace("import sys", "import sys, os, signal") + (
        "broker.wait_for_confirms()\n"
        "import brokers.nats.window as module; module.CLOSE_SECONDS = 0.3\n"
        "os.kill(int(sys.argv[4]), signal.SIGKILL)\n"
        "broker.enqueue(Message(queue_name='q', actor_name='a', args=(), kwargs={}, options={}))\n"
    )
    done = run_script(script, own_server.url, "n", "1", str(own_server.pid))
    assert "never confirmed" in done.stderr


def test_a_forked_child_has_a_window_of_its_own(own_server, own_broker):
    own_server.kill()
    for number in range(20):
        own_broker.enqueue(message(f"parent {number}"))
    own_broker._window._refusals.append(QueueFull("the parent's"))
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        code = 1
        try:
            signal.alarm(30)
            for number in range(20):
                own_broker.enqueue(message(f"child {number}"))
            own_broker.wait_for_confirms(20_000)
            code = 0
        finally:
            os._exit(code)
    own_server.start()
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(QueueFull):
        own_broker.wait_for_confirms(20_000)
    assert ready(own_broker) == 40
    assert len(set(consumed(own_broker, 40))) == 40


def test_threads_share_a_window(broker):
    errors: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        try:
            for _ in range(200):
                call()
        except BaseException as error:
            errors.append(error)

    calls = [lambda: broker.enqueue(message())] * 4 + [lambda: broker.wait_for_confirms(10_000)] * 2
    workers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert ready(broker) == 800
