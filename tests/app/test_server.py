"""Our gunicorn worker: whole requests for threads, patience and memory for clients."""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from app.cli_settings import environment
from app.commands import web_command

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENT = 60.0


class Server:
    """gunicorn with one process, and a port to reach it."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data)
        return connection

    def ask(self, data: bytes) -> bytes:
        """All that is answered until the server hangs up."""
        with self.connect(data) as connection:
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65_536):
        answer += data
    return answer


def one(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer with a Content-Length: its status and its body."""
    with connection.makefile("rb", buffering=0) as reader:
        status = int(reader.readline().split()[1])
        length = 0
        while (line := reader.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = b""
        while len(body) < length:
            body += reader.read(length - len(body))
        return status, body


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length or len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    running = []

    def begin(*options: str, threads: int = 4, patience: float = PATIENT) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            bind = f"fd://{listening.fileno()}"
            command = web_command("slow_apps:echo()", bind=bind, processes=1, threads=threads)
            here = str(Path(__file__).parent)
            process = subprocess.Popen(
                (*command.argv, *options),
                env=environment(
                    PYTHONPATH=os.pathsep.join((command.env["PYTHONPATH"], here)),
                    PATIENCE=str(patience),
                ),
                stderr=subprocess.DEVNULL,
                pass_fds=(listening.fileno(),),
            )
            running.append(process)
            return Server(listening.getsockname()[1], process)

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start()


def test_one_connection_carries_many_requests(server):
    with server.connect() as connection:
        for number in range(3):
            connection.sendall(post("/", b"%d" % number))
            assert one(connection) == (200, b"%d" % number)


def test_requests_that_are_sent_at_once_are_answered_in_order(server):
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"3\r\none\r\n4;ext=1\r\ntwo!\r\n0\r\nX-Sum: 1\r\n\r\n"
    with server.connect(GET + post("/", b"a") + chunked + body + GET) as connection:
        bodies = [one(connection)[1] for _ in range(4)]
    assert bodies == [b"nothing", b"a", b"onetwo!", b"nothing"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("/", b"body"),
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ],
    ids=["counted", "chunked"],
)
def test_a_request_that_comes_byte_by_byte_is_answered(server, request_bytes):
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request_bytes:
            connection.sendall(bytes((byte,)))
        assert one(connection) == (200, b"body")


def test_a_body_that_the_application_leaves_is_not_taken_for_a_request(server):
    with server.connect(post("/unread", GET) + GET) as connection:
        assert [one(connection)[1] for _ in range(2)] == [b"unread", b"nothing"]


def test_answers_without_a_body_and_in_parts_arrive(server):
    closing = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert server.ask(b"GET /empty" + closing).startswith(b"HTTP/1.1 204 ")
    assert server.ask(b"GET /stream" + closing).endswith(
        b"\r\n\r\n2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"],
    ids=["HTTP/1.0", "close"],
)
def test_who_does_not_stay_is_let_go(server, request_bytes):
    assert server.ask(request_bytes).endswith(b"\r\n\r\nnothing")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: zip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000, 431),
    ],
    ids=["line", "length", "two-lengths", "coding", "many-fields", "long-head"],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server, request_bytes, status):
    assert server.ask(request_bytes + GET).startswith(f"HTTP/1.1 {status} ".encode())


def test_who_asks_first_is_invited_to_send_his_body(server):
    with server.connect(post("/", b"", "Expect: 100-continue", length=4)) as connection:
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert one(connection) == (200, b"body")


def test_who_asks_first_for_too_much_is_refused_before_he_sends_it(server):
    answer = server.ask(post("/", b"", "Expect: 100-continue", length=1_000_000))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_slow_clients_take_no_thread(start):
    server = start(threads=1)
    slow = [server.connect(GET[:20]) for _ in range(20)]
    slow += [server.connect(post("/", b"part", length=100)) for _ in range(20)]
    slow += [server.connect() for _ in range(20)]
    with server.connect(GET) as connection:
        assert one(connection) == (200, b"nothing")
    slow[0].sendall(GET[20:])
    assert one(slow[0]) == (200, b"nothing")
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("sent", [GET[:20], post("/", b"part", length=100)], ids=["head", "body"])
def test_who_is_too_slow_is_told_so(start, sent):
    server = start(patience=0.3)
    assert server.ask(sent).startswith(b"HTTP/1.1 408 ")


def test_who_sends_nothing_is_let_go_without_a_word(start):
    assert start(patience=0.3).ask(b"") == b""


def test_requests_that_wait_do_not_keep_others_waiting(start, tmp_path):
    server, count = start(threads=64), 40
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    path = str(fifo).lstrip("/")
    waiting = [
        server.connect(f"GET /wait/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for _ in range(count)
    ]
    with server.connect(GET) as connection:
        assert one(connection) == (200, b"nothing")
    with ThreadPoolExecutor(count) as threads:
        answers = [threads.submit(one, connection) for connection in waiting]
        while wait(answers, timeout=0.05).not_done:
            os.close(os.open(fifo, os.O_RDWR))  # opens it for those who wait at the moment
    assert {answer.result()[0] for answer in answers} == {200}
    for connection in waiting:
        connection.close()


def test_where_all_places_are_taken_the_slowest_makes_room(start):
    server = start("--worker-connections", "3")
    slow = [server.connect(GET[:20]) for _ in range(3)]
    with server.connect(GET) as connection:
        assert one(connection) == (200, b"nothing")
    (dismissed,), _, _ = select.select(slow, (), (), 30)
    assert everything(dismissed)[:13] in (b"HTTP/1.1 408 ", b"")  # "": it was not heard at all
    slow.remove(dismissed)
    for connection in slow:
        connection.sendall(GET[20:])
        assert one(connection) == (200, b"nothing")
    for connection in (dismissed, *slow):
        connection.close()


def test_long_bodies_wait_for_room_and_short_ones_do_not(start):
    server = start("--worker-class", "slow_apps.FewLargeBodies")
    body = b"x" * 150_000
    holding = [server.connect(post("/", body[:140_000], length=len(body))) for _ in range(2)]
    for _ in range(20):  # until what they sent has been read
        with server.connect(GET) as connection:
            assert one(connection) == (200, b"nothing")
    with server.connect(post("/", body)) as third:
        with server.connect(GET) as connection:
            assert one(connection) == (200, b"nothing")
        for connection in holding:
            connection.sendall(body[140_000:])
            assert one(connection) == (200, body)
            connection.close()
        assert one(third) == (200, body)


def test_a_server_that_stops_finishes_what_runs_and_lets_the_others_go(start, tmp_path):
    server = start()
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    path = str(fifo).lstrip("/")
    with server.connect(GET) as idle:
        assert one(idle) == (200, b"nothing")
        running = server.connect(f"GET /wait/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with fifo.open("w") as gate:  # the request has begun
            server.process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""
            gate.write("done")
        assert everything(running).endswith(b"done")
        running.close()
    assert server.process.wait(30) == 0


def test_a_client_that_leaves_is_forgotten(server):
    server.connect(post("/", b"part", length=100)).close()
    connection = server.connect(GET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()  # with a reset
    with server.connect(GET) as connection:
        assert one(connection) == (200, b"nothing")
