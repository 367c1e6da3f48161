"""What tests of buckets need: a look at what is asked, and threads that surely wait."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed
from brokers.nats.requester import Line
from brokers.nats.wire import Wire

_ASKED = re.compile(rb"H?PUB (\S+) _INBOX\S+ ")


class Wires:
    """Stands between a connection and its wires: what is sent is written down, and may be lost."""

    def __init__(self, connection: NatsConnection, monkeypatch: Any) -> None:
        self.asked: list[str] = []
        """Subjects of all requests, in order."""
        self.watching = threading.Semaphore(0)
        """Released for each watch that begins."""
        self.may_open = threading.Event()
        self.may_open.set()
        self.lose_answer_to: Callable[[bytes], bool] = lambda frames: False
        """For what is sent, but whose answer never comes."""
        self.opened: list[Wire] = []
        self._open = connection.open_wire
        monkeypatch.setattr(connection, "open_wire", self.open)

    def open(self) -> Wire:
        assert self.may_open.wait(30)
        wire = self._open()
        self.opened.append(wire)
        send = wire.send

        def spy(frames: bytes) -> None:
            send(frames)
            self.asked += [subject.decode() for subject in _ASKED.findall(frames)]
            if frames.startswith(b"SUB $KV"):
                self.watching.release()
            if self.lose_answer_to(frames):
                self.lose_answer_to = lambda frames: False
                wire.settle(10)  # the server has done it
                wire.close()
                raise ConnectionClosed("lost on purpose")

        wire.send = spy  # type: ignore[method-assign]
        return wire

    def await_watches(self, count: int = 1) -> None:
        """Until so many threads have subscribed."""
        for _ in range(count):
            assert self.watching.acquire(timeout=30)


def subscriptions_heard(line: Line, provoke: Callable[[], object]) -> list[str]:
    """Subjects of what still reaches a wire that should have no subscription."""
    provoke()
    return [arrival.subject for arrival in line.wire.settle(10)]
