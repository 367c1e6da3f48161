"""Requests and their answers over wires of a pool; a thread has one for itself meanwhile.

with requester.line() as line: line.ask(subject, data).data
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TypeVar

from . import protocol
from .errors import (
    ConnectionClosed,
    ConnectionFailed,
    JetStreamError,
    MessageTooLarge,
    NobodyAnswers,
)
from .forks import after_fork
from .protocol import NO_RESPONDERS, Arrival
from .wire import Wire

T = TypeVar("T")

ANSWER_SECONDS = 3.0
"""How long the server may take to answer before a request counts as lost."""
IDLE_SECONDS = 60.0
"""A wire that was not used for so long is not used again: the server may have hung up."""
RETRY_SECONDS = 0.1
"""Pause before another attempt."""

_ANSWERED = (JetStreamError, MessageTooLarge, NobodyAnswers)


class AnswerLost(ConnectionClosed):
    """In time. Without its stream, a message may reach some subscriber who does not answer."""


class Line:
    """One wire and what was asked on it. For one thread at a time."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.since = monotonic()
        """When it was opened: the server has not been restarted since."""
        self._sids = itertools.count(2)
        wire.send(protocol.subscription(f"{wire.inbox}.*", 1))  # closes it when that fails

    def next_sid(self) -> int:
        """For a subscription that the wire has never had: what comes late is not mistaken."""
        return next(self._sids)

    def check_size(self, size: int) -> None:
        """Raises MessageTooLarge: the server would hang up."""
        if size > self.wire.max_payload:
            raise MessageTooLarge(f"{size} bytes; the server takes {self.wire.max_payload}")

    def question(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[str, bytes]:
        """The subject of the answer, and the frame to send. Raises MessageTooLarge."""
        head = protocol.header_block(headers or {})
        self.check_size(len(head) + len(data))
        reply = self.wire.next_inbox()
        return reply, protocol.publication(subject, reply, head, data)

    def ask(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Arrival:
        """The answer. Raises NobodyAnswers, ConnectionClosed, MessageTooLarge, PermissionDenied."""
        reply, frame = self.question(subject, data, headers)
        self.wire.send(frame)
        return self.answer_to(reply)

    def ask_all(self, questions: Sequence[tuple[str, bytes, Mapping[str, str]]]) -> list[Arrival]:
        """The answers to many small requests (subject, data, headers) under way at once."""
        asked = [self.question(*question) for question in questions]
        self.wire.send(b"".join(frame for _, frame in asked))
        replies = [reply for reply, _ in asked]
        answers = self._answers(replies)
        return [answers[reply] for reply in replies]

    def answer_to(self, reply: str) -> Arrival:
        """What came to that subject. Raises NobodyAnswers, ConnectionClosed."""
        return self._answers([reply])[reply]

    def _answers(self, replies: list[str]) -> dict[str, Arrival]:
        waiting, answers = set(replies), dict[str, Arrival]()
        deadline, left = monotonic() + ANSWER_SECONDS, ANSWER_SECONDS
        while left > 0:
            for arrival in self.wire.receive(left):
                if arrival.subject in waiting:
                    waiting.discard(arrival.subject)
                    answers[arrival.subject] = answered(arrival)
            if not waiting:
                return answers
            left = deadline - monotonic()
        raise AnswerLost("no answer came in time")  # type: ignore[no-untyped-call]


def answered(arrival: Arrival) -> Arrival:
    """Raises NobodyAnswers when that is what the server says."""
    if arrival.status == NO_RESPONDERS:
        raise NobodyAnswers("nobody answers the request")  # type: ignore[no-untyped-call]
    return arrival


class Requester:
    """Wires that are open stay so for a minute without use, and until `close`."""

    def __init__(self, open_wire: Callable[[], Wire]) -> None:
        self._open_wire = open_wire
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._idle: deque[Line] = deque()
        weakref.finalize(self, _hang_up, self._idle, os.getpid())

    @contextmanager
    def line(self) -> Iterator[Line]:
        """For this thread alone. Raises ConnectionFailed."""
        line = self._take()
        try:
            yield line
        except _ANSWERED:
            self._give_back(line)
            raise
        except BaseException:  # half a frame may be sent, or an answer be half read
            line.wire.close()
            raise
        self._give_back(line)

    def patiently(
        self, attempt: Callable[[Line], T], patience: float, declare: Callable[[], None]
    ) -> T:
        """Repeat `attempt` until it gets through, for `patience` seconds of NATS being away.

        `declare` is called when nobody answers: somebody may have deleted the stream. Raises what
        `attempt` raises, ConnectionClosed and ConnectionFailed when patience is up.
        """
        deadline, pause = monotonic() + patience, 0.0
        while True:
            try:
                with self.line() as line:
                    return attempt(line)
            except (ConnectionClosed, ConnectionFailed) as error:
                self.close()  # the other wires will not be any better
                if monotonic() + pause >= deadline:
                    raise
                sleep(pause)
                pause = RETRY_SECONDS
                if isinstance(error, NobodyAnswers | AnswerLost):
                    declare()

    def _take(self) -> Line:
        with suppress(IndexError):
            while True:
                line = self._idle.pop()
                if not line.wire.closed and not _is_idle(line):
                    return line
                line.wire.close()
        wire = self._open_wire()
        return Line(wire)

    def _give_back(self, line: Line) -> None:
        """The last one that was used is the first one to be used again: others grow old."""
        if line.wire.lame:
            line.wire.close()
        else:
            self._idle.append(line)
        with suppress(IndexError):
            while _is_idle(self._idle[0]):
                self._idle.popleft().wire.close()

    def close(self) -> None:
        """Hang up all that is not in use. Idempotent; a later use opens others."""
        _hang_up(self._idle, os.getpid())


def _hang_up(idle: deque[Line], pid: int) -> None:
    """In the process that has opened them: a child's would be the parent's as well."""
    if pid == os.getpid():
        with suppress(IndexError):
            while True:
                idle.pop().wire.close()


def _is_idle(line: Line) -> bool:
    return monotonic() - line.wire.used >= IDLE_SECONDS
