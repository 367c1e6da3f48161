"""Messages that this process holds: kept alive by a heartbeat until they are acknowledged.

The thread that beats belongs to nobody's actor. It needs Python's lock for microseconds every third
of the ack wait; so an actor that keeps that lock for less than two thirds of it does no harm.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

from . import protocol
from .forks import after_fork
from .outbox import Outbox, Post
from .protocol import NO_RESPONDERS, Arrival
from .wire import Wire

ACK, NAK, IN_PROGRESS = b"+ACK", b"-NAK", b"+WPI"

UNANSWERED_SECONDS = 60.0
"""How long an acknowledgement is repeated when nobody takes it: its consumer was deleted."""


def nak_for(seconds: float) -> bytes:
    """The verdict that brings a message back after this time."""
    return NAK + b" " + json.dumps({"delay": int(seconds * 1e9)}).encode()


class Held:
    """Ack subjects of the held messages. `ack_wait` is in seconds."""

    def __init__(self, open_wire: Callable[[], Wire], ack_wait: float) -> None:
        self._interval = ack_wait / 3
        self._outbox = Outbox(
            open_wire,
            name="nats-acks",
            judge=_is_unanswered,
            on_connect=self._beats,
        )
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._subjects: set[str] = set()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._subjects)

    def add(self, ack_subject: str) -> None:
        """Keep it alive from now on."""
        self._subjects.add(ack_subject)
        if self._thread is None:
            with self._lock:
                self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._beat, name="nats-heartbeat", daemon=True)
            self._thread.start()
            self._outbox.connect()

    def settle(self, ack_subject: str, verdict: bytes) -> None:
        """Tell the server in the background, as often as it takes; the heartbeat ends."""
        self._outbox.post(ack_subject, verdict, lifetime=UNANSWERED_SECONDS)
        self._subjects.discard(ack_subject)

    def let_go(self, ack_subject: str) -> None:
        """The heartbeat ends, and nothing is told."""
        self._subjects.discard(ack_subject)

    def _beat(self) -> None:
        while not self._closing.wait(self._interval):
            self._outbox.whisper(self._beats())

    def _beats(self) -> Iterator[bytes]:
        for subject in self._subjects.copy():
            yield protocol.publication(subject, "", b"", IN_PROGRESS)

    def drain(self, timeout: float) -> int:
        """Wait until the server knows of all that was settled; how much it does not know."""
        return self._outbox.drain(timeout)

    def close(self, timeout: float) -> None:
        """Drain and end the threads. What is still held comes back after the ack wait."""
        self._closing.set()
        self._outbox.close(timeout)
        if self._thread is not None:
            self._thread.join()


def _is_unanswered(post: Post, arrival: Arrival) -> bool:
    return arrival.status == NO_RESPONDERS
