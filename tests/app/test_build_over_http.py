"""The API as it is served: gunicorn, sockets, and clients that send before they listen."""

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli_settings import environment
from app.commands import web_command

LIMIT = 8 * 1024 * 1024
JOB = json.dumps({"name": "job", "steps": [{"image": "alpine"}]}).encode()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        bind = f"fd://{listening.fileno()}"
        command = web_command("recording_queue:api()", bind=bind, processes=1, threads=4)
        here = str(Path(__file__).parent)
        path = os.pathsep.join((command.env["PYTHONPATH"], here))
        with subprocess.Popen(
            command.argv,
            env=environment(PYTHONPATH=path),
            stderr=subprocess.DEVNULL,
            pass_fds=(listening.fileno(),),
        ) as process:
            try:
                yield listening.getsockname()[1]
            finally:
                process.terminate()


def send(port: int, body, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/build", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def chunks(size: int) -> Iterator[bytes]:
    yield JOB
    for _ in range(size // 65_536):
        yield b" " * 65_536


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


def test_a_job_is_taken(port):
    assert send(port, JOB)[0] == 200


def test_a_chunked_job_is_taken(port):
    assert send(port, chunks(131_072))[0] == 200


@pytest.mark.parametrize("size", [LIMIT + 1, 20 * 2**20])
def test_a_body_that_is_too_large_is_told_so_after_it_was_sent(port, size):
    told = (413, f"Request body too large: the limit is {LIMIT} bytes")
    assert send(port, JOB.ljust(size)) == told
    assert send(port, chunks(size + 65_536)) == told


def test_broken_framing_is_a_400(port):
    request = b"POST /build HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{"
    assert raw(port, request).startswith(b"HTTP/1.1 400 ")


def test_a_path_of_odd_characters_is_a_404(port):
    assert raw(port, b"GET /%00%ff%0a HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 404 ")
