"""Applications that gunicorn serves in `test_server.py`."""

import os
from pathlib import Path

from flask import Flask, request

import app.server.connection as connection
import app.server.large as large
from app.server.worker import WholeRequestWorker


def echo() -> Flask:
    """Answers with what it got; `/wait` answers as soon as the file exists that it is told."""
    connection.HEAD_SECONDS = connection.BODY_SECONDS = float(os.environ["PATIENCE"])
    flask = Flask(__name__, static_folder=None)
    flask.config["MAX_CONTENT_LENGTH"] = 200_000

    @flask.route("/", methods=["GET", "POST"])
    def answer() -> bytes:
        return request.get_data() or b"nothing"

    @flask.get("/unread")
    @flask.post("/unread")
    def unread() -> str:
        return "unread"

    @flask.get("/wait/<path:path>")
    def wait(path: str) -> str:
        with Path("/", path).open() as fifo:  # once somebody writes
            return fifo.read()

    @flask.get("/stream")
    def stream():
        return (f"{number}\n" for number in range(3)), 200

    @flask.get("/empty")
    def empty() -> tuple[str, int]:
        return "", 204

    return flask


class FewLargeBodies(WholeRequestWorker):
    """Has room for less than two of those that the test sends."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._large = large.LargeBodies(250_000)
