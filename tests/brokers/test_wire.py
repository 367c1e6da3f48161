"""One blocking connection, against real servers and against scripted ones that misbehave."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dramatiq.threading import Interrupt, raise_thread_exception

from brokers.embedded import EmbeddedNats
from brokers.nats import protocol, wire
from brokers.nats.errors import ConnectionClosed, ConnectionFailed, PermissionDenied
from brokers.nats.servers import Endpoint, Servers
from brokers.nats.wire import Wire
from tests.brokers.servers import INFO, ConfiguredNats, Peer, dead_url, scripted


def subscribed(wire: Wire) -> Wire:
    wire.send(protocol.subscription(f"{wire.inbox}.>", 1))
    wire.settle(5)
    return wire


def received(wire: Wire, count: int) -> list[protocol.Arrival]:
    arrivals: list[protocol.Arrival] = []
    deadline = time.monotonic() + 20
    while len(arrivals) < count and time.monotonic() < deadline:
        arrivals += wire.receive(1)
    return arrivals


def fds() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def connected(nats_server: EmbeddedNats) -> Iterator[Wire]:
    with Wire.open(Servers(nats_server.url)) as wire:
        yield subscribed(wire)


def in_thread(target) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


# Against a real server


def test_what_is_sent_comes_back(connected):
    subject = connected.next_inbox()
    head = protocol.header_block({"A": "ä"})
    connected.send(protocol.publication(subject, "r.e", head, b"\r\n\x00"))
    [arrival] = received(connected, 1)
    assert (arrival.subject, arrival.reply, arrival.data) == (subject, "r.e", b"\r\n\x00")
    assert arrival.headers == {"A": "ä"}


def test_every_inbox_is_another_one(nats_server):
    with (
        Wire.open(Servers(nats_server.url)) as one,
        Wire.open(Servers(nats_server.url)) as other,
    ):
        subjects = {wire.next_inbox() for wire in (one, other) for _ in range(10)}
    assert len(subjects) == 20


def test_receive_returns_in_time_when_nothing_comes(connected):
    for timeout in (0.2, 0.001, 0.2):
        began = time.monotonic()
        assert connected.receive(timeout) == []
        assert timeout * 0.9 <= time.monotonic() - began < timeout + 2


def test_the_server_says_how_much_it_takes_and_hangs_up_on_more(tmp_path):
    with ConfiguredNats(tmp_path, "max_payload: 4096") as server:
        with Wire.open(Servers(server.url)) as wire:
            assert wire.max_payload == 4096
            wire.send(protocol.publication("a", "", b"", b"x" * 4097))
            with pytest.raises(ConnectionClosed, match="Maximum Payload"):
                received(wire, 1)
            assert wire.closed
            with pytest.raises(ConnectionClosed):
                wire.send(b"PING\r\n")


def test_a_large_message_arrives_whole(connected):
    data = os.urandom(connected.max_payload)
    connected.send(protocol.publication(connected.next_inbox(), "", b"", data))
    assert received(connected, 1)[0].data == data


def test_many_threads_send_while_one_receives(connected):
    subject = connected.next_inbox()

    def send(thread: int) -> None:
        for number in range(500):
            data = b"%d %d " % (thread, number) + b"x" * (number * 7)
            connected.send(protocol.publication(subject, "", b"", data))

    threads = [in_thread(lambda thread=thread: send(thread)) for thread in range(8)]
    arrivals = received(connected, 4_000)
    for thread in threads:
        thread.join()
    told = [tuple(map(int, arrival.data.split()[:2])) for arrival in arrivals]
    for thread in range(8):
        assert [number for sender, number in told if sender == thread] == list(range(500))


def test_settle_brings_all_that_the_server_had_sent(connected):
    subject = connected.next_inbox()
    connected.send(b"".join(protocol.publication(subject, "", b"", b"x" * n) for n in range(2_000)))
    assert len(connected.settle(10)) == 2_000


def test_settle_waits_for_the_answer_to_its_own_question(connected):
    subject = connected.next_inbox()
    connected._ping()  # as for a silent server; its answer is still under way
    connected.send(b"".join(protocol.publication(subject, "", b"", b"x" * 900) for _ in range(500)))
    assert len(connected.settle(10)) == 500


def test_close_wakes_a_thread_that_receives(connected):
    outcome: list[BaseException] = []

    def receive() -> None:
        try:
            connected.receive(30)
        except BaseException as error:
            outcome.append(error)

    thread = in_thread(receive)
    connected.close()
    connected.close()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(outcome[0], ConnectionClosed)


def test_a_server_that_dies_ends_a_receive(own_server):
    with Wire.open(Servers(own_server.url)) as wire:
        subscribed(wire)
        killer = in_thread(own_server.kill)
        with pytest.raises(ConnectionClosed):
            received(wire, 1)
        killer.join()
        assert wire.closed


def test_a_server_that_is_about_to_leave_makes_the_wire_lame(own_server):
    with Wire.open(Servers(own_server.url)) as wire:
        os.kill(own_server.pid, signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while not wire.lame and time.monotonic() < deadline:
            wire.receive(0.5)
        assert wire.lame
        assert not wire.closed
    own_server.kill()  # it would take its time


class Stop(Interrupt):
    """As Dramatiq's TimeLimit raises it in a worker thread."""


def test_an_interrupt_in_mid_receive_closes_the_wire(connected):
    thread_id: list[int] = []
    listening = threading.Event()

    def receive() -> None:
        thread_id.append(threading.get_ident())
        listening.set()
        try:
            while True:
                connected.receive(0.01)
        except Stop:
            pass

    thread = in_thread(receive)
    listening.wait()
    raise_thread_exception(thread_id[0], Stop)
    thread.join(5)
    assert not thread.is_alive()
    connected.close()


class Broken:
    """A stream in which an interrupt arrives."""

    def __init__(self) -> None:
        self.closed = False

    def send(self, data: bytes) -> None:
        raise Stop

    def receive(self, timeout: float) -> bytes:
        raise Stop

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("use", [lambda wire: wire.send(b"x"), lambda wire: wire.receive(1)])
def test_an_interrupted_wire_is_never_used_again(use):
    stream = Broken()
    broken = Wire(stream, protocol.Parser(), {"max_payload": 1})
    with pytest.raises(Stop):
        use(broken)
    assert broken.closed
    assert stream.closed


# Against servers that misbehave


def test_a_question_of_the_server_is_answered():
    answers = []

    def script(peer: Peer) -> None:
        peer.greet()
        peer.say(b"PING\r\nPING\r\n")
        answers.extend([peer.line(), peer.line()])
        peer.say(b"MSG x 1 2\r\nok\r\n")

    with scripted(script) as url, Wire.open(Servers(url)) as wire:
        assert received(wire, 1)[0].data == b"ok"
    assert answers == [b"PONG\r\n", b"PONG\r\n"]


def test_messages_that_come_with_an_error_are_not_lost():
    def script(peer: Peer) -> None:
        peer.greet()
        peer.say(b"MSG x 1 1\r\na\r\n-ERR 'Stale Connection'\r\nMSG x 1 1\r\nb\r\n")

    with scripted(script) as url, Wire.open(Servers(url)) as wire:
        assert [arrival.data for arrival in received(wire, 1)] == [b"a", b"b"]
        with pytest.raises(ConnectionClosed, match="Stale Connection"):
            wire.receive(5)


def test_what_is_not_permitted_is_told_and_the_wire_lives_on():
    def script(peer: Peer) -> None:
        peer.greet()
        denial = b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n"
        peer.say(b"MSG x 1 1\r\na\r\n" + denial + b"PING\r\n")
        assert peer.line() == b"PONG\r\n"
        peer.say(b"MSG x 1 1\r\nb\r\n")

    with scripted(script) as url, Wire.open(Servers(url)) as wire:
        assert received(wire, 1)[0].data == b"a"
        with pytest.raises(PermissionDenied, match='Publish to "x"'):
            wire.receive(5)
        assert received(wire, 1)[0].data == b"b"


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16" * 100 + b"\r\n",
        b"INFO []\r\n",
        b"INFO {\r\n",
        b"INFO " + b"[" * 50_000 + b"\r\n",
        b'INFO {"max_payload":null}\r\n',
        b'INFO {"nonce":7}\r\n',
        b"PING\r\n",
        b"-ERR 'Too Many Connections'\r\n",
        b"MSG a 1 1\r\na\r\n",
        b'INFO {"tls_required":true}\r\nnot TLS at all, I am afraid\r\n',
        b"",
    ],
)
def test_who_is_no_nats_server_is_a_failed_connection(greeting):
    def script(peer: Peer) -> None:
        peer.say(greeting)
        peer.close()

    with scripted(script) as url:
        before = fds()
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1"):
            Wire.open(Servers(url, connect_timeout=1))
        assert fds() <= before


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR 'Authorization Violation'\r\n",
        b'INFO {"max_payload":"x"}\r\n',
        b"garbage\r\n",
        b"-ERR 'Permissions Violation for Publish'\r\n",
    ],
)
def test_a_server_that_does_not_take_us_is_a_failed_connection(answer):
    def script(peer: Peer) -> None:
        peer.say(INFO)
        peer.line(), peer.line()
        peer.say(answer)
        peer.close()

    with scripted(script) as url, pytest.raises(ConnectionFailed):
        Wire.open(Servers(url, connect_timeout=1))


@pytest.mark.parametrize("words", [b"", INFO, b"INF"])
def test_a_server_that_falls_silent_is_given_up_in_time(monkeypatch, words):
    monkeypatch.setattr(wire, "DIAL_SECONDS", 0.2)
    with scripted(lambda peer: peer.say(words)) as url:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed):
            Wire.open(Servers(url, connect_timeout=0.3))
        assert 0.25 < time.monotonic() - began < 5


def test_a_server_that_refuses_does_not_stand_in_the_way_of_one_that_takes_us(nats_server):
    def refuse(peer: Peer) -> None:
        peer.say(INFO)
        peer.line(), peer.line()
        peer.say(b"-ERR 'Authorization Violation'\r\n")
        peer.close()

    with scripted(refuse) as bad, scripted(lambda peer: peer.say(b"nonsense\r\n")) as worse:
        for _ in range(5):
            servers = Servers([bad, worse, dead_url(), nats_server.url])
            with Wire.open(servers) as wire:
                assert wire.settle(5) == []


def test_a_connection_that_goes_silent_is_asked_and_then_given_up(monkeypatch):
    monkeypatch.setattr(wire, "SILENCE_SECONDS", 0.1)
    said = []

    def script(peer: Peer) -> None:
        peer.greet()
        said.append(peer.line())

    with scripted(script) as url, Wire.open(Servers(url)) as connected:
        with pytest.raises(ConnectionClosed, match="silent"):
            for _ in range(100):
                connected.receive(0.05)
    assert said == [b"PING\r\n"]


def test_a_wire_that_nobody_has_listened_to_for_long_is_not_given_up(connected):
    connected.used -= 3_600
    for _ in range(3):
        assert connected.receive(0.2) == []
    assert not connected.closed
    assert time.monotonic() - connected.used < 60


def test_words_in_clear_before_the_encryption_do_not_count(tmp_path):
    """Somebody in between could put them there, as in the STARTTLS injections of mail servers."""
    from tests.brokers.certificates import make_certificates, server_context

    files = make_certificates(tmp_path)

    def script(peer: Peer) -> None:
        peer.say(b'INFO {"tls_required":true}\r\nMSG x 1 2\r')
        with server_context(files).wrap_socket(peer.sock.dup(), server_side=True) as encrypted:
            while b"PING" not in encrypted.recv(4_096):
                pass
            encrypted.sendall(b"PONG\r\n")
            encrypted.recv(1)

    with scripted(script) as url:
        with Wire.open(Servers(url, tls_ca=str(files.authority))) as wire:
            assert not wire.closed


# Where the servers are


def test_servers_are_tried_in_turn_and_those_that_failed_last():
    servers = Servers("nats://a:1, nats://b, tls://c:3")
    a, b, c = Endpoint("a", 1), Endpoint("b", 4222), Endpoint("c", 3, tls=True)
    assert {tuple(servers.endpoints()) for _ in range(200)} > {(a, b, c), (c, b, a)}
    servers.avoid(b)
    assert all(servers.endpoints()[-1] == b for _ in range(20))
    servers.answered(b, [])
    assert any(servers.endpoints()[0] == b for _ in range(200))


def test_servers_of_the_cluster_are_learned_and_forgotten():
    servers = Servers("nats://u:p@a:1")
    [named] = servers.endpoints()
    servers.answered(named, ["10.0.0.2:4222", "[fe80::1]:4223", "a:1", "nonsense", ":5", "x:y"])
    learned = {str(endpoint): endpoint for endpoint in servers.endpoints()}
    assert set(learned) == {"a:1", "10.0.0.2:4222", "[fe80::1]:4223"}
    assert {endpoint.user for endpoint in learned.values()} == {"u"}
    assert {endpoint.password for endpoint in learned.values()} == {"p"}
    for number in range(1_000):  # pods come and go
        servers.answered(named, [f"10.0.1.{number % 250}:4222", "10.0.0.2:4222"])
    assert {str(endpoint) for endpoint in servers.endpoints()} == {
        "a:1",
        "10.0.0.2:4222",
        "10.0.1.249:4222",
    }
    servers.answered(named, [])
    assert len(servers.endpoints()) == 3


def test_one_that_failed_stays_behind_when_another_one_tells_of_it():
    servers = Servers("nats://a:1,nats://b:2")
    a, b = Endpoint("a", 1), Endpoint("b", 2)
    servers.avoid(b)
    servers.answered(a, ["a:1", "b:2"])
    assert all(servers.endpoints() == [a, b] for _ in range(20))


def test_a_server_known_by_its_address_must_have_the_certificate_of_the_cluster():
    servers = Servers("tls://nats.example.org:4222")
    [named] = servers.endpoints()
    servers.answered(named, ["10.0.0.2:4222", "other.example.org:4222"])
    names = {endpoint.host: endpoint.tls_hostname for endpoint in servers.endpoints()}
    assert names["10.0.0.2"] == "nats.example.org"
    assert names["other.example.org"] is None
    learned = next(each for each in servers.endpoints() if each.host == "10.0.0.2")
    servers.answered(learned, ["10.0.0.2:4222", "10.0.0.3:4222"])
    names = {endpoint.host: endpoint.tls_hostname for endpoint in servers.endpoints()}
    assert names["10.0.0.3"] == "nats.example.org"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("nats://h", Endpoint("h", 4222)),
        ("h:1", Endpoint("h", 1)),
        ("tls://h:1", Endpoint("h", 1, tls=True)),
        ("nats://[::1]:5", Endpoint("::1", 5)),
        ("nats://[::1]", Endpoint("::1", 4222)),
        ("nats://u:p@h", Endpoint("h", 4222, user="u", password="p")),
        ("u%40x:p%2F%3A%25%23@h:1", Endpoint("h", 1, user="u@x", password="p/:%#")),
        ("nats://t0ken@h", Endpoint("h", 4222, user="t0ken")),
        ("  nats://h:7/  ", Endpoint("h", 7)),
    ],
)
def test_a_url_says_where_a_server_is(url, endpoint):
    assert Servers(url).endpoints() == [endpoint]


@pytest.mark.parametrize(
    "url",
    [
        "",
        " , ",
        "http://u:hunter2@h",
        "nats://u:hunter2@",
        "nats://u:hunter2/x@h:1",
        "nats://u:hunter2#x@h:1",
        "nats://u:hunter2?x@h:1",
        "nats://u:hunter2,x@h:1",
        "nats://u:hunter2@h:99999",
        "nats://u:hunter2@h:port",
        "nats://u:hunter2@[::1",
        "nats://u:hunter2@h\u2100:1",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(ValueError) as caught:
        Servers(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = None if error.__suppress_context__ else (error.__cause__ or error.__context__)


def test_no_description_shows_a_secret():
    secrets = {"password": "hunter2", "user": "joe", "token": "t0k3n", "nkey": "SUhunter2"}
    servers = Servers("nats://u:hunter2@h:1,nats://t0k3n@h:2", **secrets)
    texts = [str(servers), *(f"{each} {each!r}" for each in servers.endpoints())]
    assert not any(secret in text for text in texts for secret in ("hunter2", "t0k3n"))


def test_a_failed_connection_shows_no_password():
    url = dead_url().replace("nats://", "nats://u:hunter2@")
    with pytest.raises(ConnectionFailed) as caught:
        Wire.open(Servers(url))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("nkey", [" SUhunter2 ", "suhunter2", "SUhunter2" * 6, "hunter2\x00"])
def test_an_nkey_that_is_none_is_a_failed_connection_that_does_not_show_it(nats_server, nkey):
    with pytest.raises(ConnectionFailed, match="nkey") as caught:
        Wire.open(Servers(nats_server.url, nkey=nkey))
    assert "hunter2" not in str(caught.value)


def test_a_missing_credentials_file_is_a_failed_connection(nats_server, tmp_path: Path):
    empty = tmp_path / "empty.creds"
    empty.write_text("nothing")
    for path in (tmp_path / "none.creds", empty):
        with pytest.raises(ConnectionFailed, match=r"\.creds"):
            Wire.open(Servers(nats_server.url, credentials=str(path)))
