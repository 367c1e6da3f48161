"""Messages into a stream, each confirmed before `publish` returns.

A thread has a wire for itself meanwhile: one send, one receive. A message keeps its id over all
attempts, so the server stores it once however often it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import TypeVar

from . import protocol
from .errors import ConnectionClosed, ConnectionFailed, NobodyAnswers, refusal
from .protocol import NO_RESPONDERS, Arrival
from .requester import ANSWER_SECONDS, AnswerLost, Line, Requester
from .wire import Wire

T = TypeVar("T")

BATCH = 128
"""Messages of `publish_many` that may be unconfirmed at once."""

_ACKNOWLEDGED = b'{"stream"'


@dataclass(frozen=True, slots=True)
class Publication:
    """One message on its way into a stream."""

    subject: str
    head: bytes
    """Its header block, with the id."""
    data: bytes

    @classmethod
    def of(cls, subject: str, headers: dict[str, str], data: bytes, message_id: str) -> Publication:
        """`message_id` is what the server knows repetitions by. Raises ValueError for a header
        with a line break."""
        return cls(subject, protocol.header_block({"Nats-Msg-Id": message_id, **headers}), data)

    @property
    def size(self) -> int:
        """Bytes that count for the server's max_payload."""
        return len(self.head) + len(self.data)

    def frame(self, reply: str) -> bytes:
        """As it is sent."""
        return protocol.publication(self.subject, reply, self.head, self.data)


def check_answer(answer: Arrival) -> None:
    """Raises what the server says when it does not confirm; ConnectionClosed for what may pass."""
    if answer.data.startswith(_ACKNOWLEDGED) and b'"error"' not in answer.data:
        return
    if answer.status == NO_RESPONDERS:
        raise NobodyAnswers("no stream takes the message")  # type: ignore[no-untyped-call]
    try:
        said = json.loads(answer.data)
        if error := said.get("error"):
            code, reason = error.get("code", 0), str(error.get("description", ""))
            raise refusal(code, error.get("err_code", 0), reason)
        if "stream" in said:
            return
    except (ValueError, AttributeError):
        pass
    raise ConnectionClosed("what answered is no stream")


class Publisher:
    """`declare` is called when no stream takes a message: somebody may have deleted it."""

    def __init__(self, open_wire: Callable[[], Wire], declare: Callable[[], None]) -> None:
        self._requester = Requester(open_wire)
        self._declare = declare

    def publish(self, publication: Publication, patience: float) -> int:
        """Store the message; its number in the stream. `patience` is in seconds, for NATS being
        away.

        Raises MessageTooLarge, QueueFull, JetStreamError, and ConnectionClosed or ConnectionFailed
        when patience is up: then the message may be stored or not.
        """
        return self._patiently(lambda line: _publish(line, publication), patience)

    def publish_many(self, publications: Sequence[Publication], patience: float) -> list[int]:
        """The same for many, several of which are under way at once.

        An error leaves those stored that were confirmed before; the others may be.
        """
        sending = _Sending(publications)
        self._patiently(sending.attempt, patience)
        return [sending.stored[key] for key in range(len(publications))]

    def _patiently(self, attempt: Callable[[Line], T], patience: float) -> T:
        return self._requester.patiently(attempt, patience, self._declare_again)

    def _declare_again(self) -> None:
        with suppress(ConnectionClosed, ConnectionFailed):  # the next attempt will say so
            self._declare()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._requester.close()


def _publish(line: Line, publication: Publication) -> int:
    line.check_size(publication.size)
    reply = line.wire.next_inbox()
    line.wire.send(publication.frame(reply))
    return _sequence(line.answer_to(reply))


def _sequence(answer: Arrival) -> int:
    """Of the message that the answer confirms. Raises what `check_answer` does."""
    check_answer(answer)
    return int(json.loads(answer.data)["seq"])


class _Sending:
    """Many messages, over as many attempts as it takes."""

    def __init__(self, publications: Sequence[Publication]) -> None:
        self._waiting = dict(enumerate(publications))
        self.stored: dict[int, int] = {}

    def attempt(self, line: Line) -> None:
        """Send what is not confirmed yet, batch by batch."""
        wire = line.wire
        for publication in self._waiting.values():
            line.check_size(publication.size)
        while self._waiting:
            batch = list(islice(self._waiting.items(), BATCH))
            inbox = wire.next_inbox()
            wire.send(b"".join(pub.frame(f"{inbox}-{key}") for key, pub in batch))
            self._await_answers(inbox, {key for key, _ in batch}, wire)

    def _await_answers(self, inbox: str, expected: set[int], wire: Wire) -> None:
        deadline = monotonic() + ANSWER_SECONDS
        while expected:
            if monotonic() >= deadline:
                raise AnswerLost("the server did not confirm in time")  # type: ignore[no-untyped-call]
            for arrival in wire.receive(ANSWER_SECONDS):
                batch, _, key = arrival.subject.rpartition("-")
                if batch == inbox:
                    self._confirm(int(key), arrival)
                    expected.discard(int(key))
                    deadline = monotonic() + ANSWER_SECONDS

    def _confirm(self, key: int, answer: Arrival) -> None:
        self.stored[key] = _sequence(answer)
        self._waiting.pop(key, None)
