import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from app.cli_settings import CliSettings
from app.dev import DevOptions, choose_executor
from app.engine import Engine, split_tag


class Handler(BaseHTTPRequestHandler):
    """An Engine that has `here:latest`, can pull `there`, and nothing else."""

    server: "FakeEngine"

    def do_GET(self) -> None:
        image = self.path.removeprefix("/images/").removesuffix("/json")
        found = self.path == "/_ping" or image in self.server.images
        self.reply(200 if found else 404, b"")

    def do_POST(self) -> None:
        if "fromImage=there&tag=1" in self.path:
            self.server.images.add("there%3A1")
            self.server.images.add("there:1")
            self.reply(200, b'{"status": "Pulling"}\r\n{"status": "Done"}\r\n')
        else:
            self.reply(200, b'{"status": "Pulling"}\r\n{"error": "manifest unknown"}\r\n')

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    images: set[str]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        return connection, ("engine", 0)


@contextmanager
def engine_at(path: Path) -> Iterator[str]:
    with FakeEngine(str(path), Handler) as server:
        server.images = {"here:latest", "here%3Alatest"}
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with engine_at(tmp_path / "docker.sock") as host, Engine(host) as client:
        yield client


def test_an_engine_that_answers_makes_docker_the_executor(tmp_path: Path) -> None:
    with engine_at(tmp_path / "docker.sock") as host:
        choice = choose_executor(DevOptions(), CliSettings(docker_host=host))

    assert choice.executor == "docker"


def test_images_that_are_there_need_no_pull(engine: Engine) -> None:
    assert engine.obtain(["here:latest"], timeout=30) == ""


def test_a_missing_image_is_pulled(engine: Engine) -> None:
    assert engine.obtain(["here:latest", "there:1"], timeout=30) == ""


def test_an_image_that_cannot_be_pulled_is_named_with_the_engines_reason(engine: Engine) -> None:
    assert engine.obtain(["nowhere"], timeout=30) == "nowhere can't be pulled: manifest unknown"


@pytest.mark.parametrize("host", ["unix:///no/such.sock", "tcp://127.0.0.1:1", "ssh://x@y", ""])
def test_an_address_without_an_engine_does_not_answer(host: str) -> None:
    with Engine(host) as engine:
        assert not engine.answers()


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("alpine", "alpine", "latest"),
        ("alpine:3", "alpine", "3"),
        ("localhost:5000/alpine", "localhost:5000/alpine", "latest"),
        ("localhost:5000/alpine:3", "localhost:5000/alpine", "3"),
        ("alpine@sha256:0", "alpine@sha256:0", ""),
    ],
)
def test_a_tag_is_told_from_a_registrys_port(image: str, name: str, tag: str) -> None:
    assert split_tag(image) == (name, tag)
