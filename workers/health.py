"""A worker's answers to probes: `/livez`, `/readyz`, and its status as JSON."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from brokers.worker_registry import WorkerState, WorkerStatus

log = logging.getLogger(__name__)


class Health:
    """`status` tells what the worker is up to, `connected` whether NATS is there."""

    def __init__(
        self, port: int, status: Callable[[], WorkerStatus], connected: Callable[[], bool]
    ) -> None:
        self._port = port
        self._handler = partial(_Handler, status, connected)
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Answer from now on; where another worker has the port, this one does not."""
        try:
            self._server = ThreadingHTTPServer(("", self._port), self._handler)
        except OSError as error:
            log.warning("no probes are answered: port %d: %s", self._port, error)
            return
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0

    def __init__(
        self,
        status: Callable[[], WorkerStatus],
        connected: Callable[[], bool],
        *args: Any,
    ) -> None:
        self._status = status
        self._connected = connected
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._answer(HTTPStatus.OK, {"status": "alive"})
        elif path == "/readyz":
            self._answer_ready(self._away())
        elif path == "/status":
            self._answer(HTTPStatus.OK, self._status().to_dict())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "not found"})

    def _answer_ready(self, away: dict[str, str]) -> None:
        if away:
            body = {"status": "away", "away": list(away), "reasons": away}
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, body)
        else:
            self._answer(HTTPStatus.OK, {"status": "ready"})

    def _away(self) -> dict[str, str]:
        """What is missing, and why."""
        status, away = self._status(), {}
        if not self._connected():
            away["nats"] = "not connected"
        if status.state is WorkerState.PAUSED:
            away["executor"] = status.reason
        if status.state is WorkerState.DRAINING:
            away["worker"] = "it is told to go"
        return away

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes are not news."""
