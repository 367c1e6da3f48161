"""Waiting for a key's value: woken by its publication, never by asking again and again.

A plain subscription to the key's subject costs the server no consumer, and hears of a value a
little before it is stored: so it takes the value from the message. It is asked for as well where a
message may have been missed: after subscribing, twice more when the other servers of a cluster
have heard of the subscription, on the next wire after one was lost, and when the time is up.
"""

from __future__ import annotations

import math
from time import monotonic, sleep

from . import protocol
from .buckets import PATIENCE, Bucket, Key
from .entries import Entry, entry_of
from .errors import ConnectionClosed, ConnectionFailed, NobodyAnswers
from .protocol import Arrival
from .requester import RETRY_SECONDS, Line, answered

_SETTLED = (0.05, 1.0)
"""Seconds after which the servers of a cluster know a subscription: most likely, and surely. It is
a matter of a few milliseconds, but what is published in those is not heard."""
_INTERRUPTIBLE = 1.0
"""Seconds after which a blocked thread gets to see an exception that was raised in it: Dramatiq's
time limits and shutdowns."""
_LAST_LOOK = 1.0
"""Seconds for the answer to the last question."""


def wait(bucket: Bucket, key: Key, timeout: float | None) -> Entry:
    """Until the key has a value, for `timeout` seconds at most (None: for ever).

    Returns an entry without a value when the time is up, also when NATS was away in the end.
    """
    deadline = math.inf if timeout is None else monotonic() + timeout
    bucket.declare(max(0.0, min(deadline - monotonic(), PATIENCE)))
    while True:
        try:
            with bucket.requester.line() as line:
                return _Watch(bucket, key, line).until(deadline)
        except (ConnectionClosed, ConnectionFailed) as error:
            bucket.close()  # the other wires will not be any better
            left = deadline - monotonic()
            if left <= 0:
                return Entry(None, 0)
            sleep(min(RETRY_SECONDS, left))
            if isinstance(error, NobodyAnswers):
                bucket.declare_again()


class _Watch:
    """One wait on one wire."""

    def __init__(self, bucket: Bucket, key: Key, line: Line) -> None:
        self._bucket = bucket
        self._key = key
        self._line = line
        self._sid = line.next_sid()
        self._asked: set[str] = set()

    def until(self, deadline: float) -> Entry:
        """The entry as soon as it has a value, or without one after the deadline."""
        subscribe = protocol.subscription(self._bucket.subject(self._key), self._sid)
        self._ask(subscribe)
        start, entry = monotonic(), None
        for until in (start + _SETTLED[0], start + _SETTLED[1], deadline):
            entry = entry or self._listen(min(until, deadline))
            if entry is None and monotonic() < deadline:
                self._ask()
        if entry is None:
            self._ask()
            entry = self._listen(monotonic() + _LAST_LOOK, only_asked=True)
        self._line.wire.send(protocol.unsubscription(self._sid))
        return entry or Entry(None, 0)

    def _ask(self, before: bytes = b"") -> None:
        reply, question = self._line.question(self._bucket.getter(self._key))
        self._asked.add(reply)
        self._line.wire.send(before + question)

    def _listen(self, deadline: float, *, only_asked: bool = False) -> Entry | None:
        """None when nothing came before the deadline, or all that was asked was answered."""
        while (left := deadline - monotonic()) > 0 and (self._asked or not only_asked):
            for arrival in self._line.wire.receive(min(left, _INTERRUPTIBLE)):
                entry = self._entry(arrival)
                if entry is not None and entry.value is not None:
                    return entry
        return None

    def _entry(self, arrival: Arrival) -> Entry | None:
        """What was published, or asked for; None for what is left of an earlier request."""
        if arrival.subject in self._asked:
            self._asked.discard(arrival.subject)
            return entry_of(answered(arrival))
        return entry_of(arrival) if arrival.sid == self._sid else None
