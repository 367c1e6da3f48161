"""Frames that are sent in the background, each kept until the server has confirmed it.

Two threads share one wire: the writer sends in one go what has been posted since its last turn, the
reader takes the confirmations and sees to the connection. After a reconnect, and when no
confirmation comes, what is unconfirmed is sent again. So whoever posts must bear repetition: an
acknowledgement does by itself, a message by its id.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable
from time import monotonic

from dramatiq.errors import BrokerError

from . import protocol
from .errors import ConnectionClosed, ConnectionFailed, MessageTooLarge, PermissionDenied
from .forks import after_fork
from .protocol import Arrival
from .wire import Wire

TICK_SECONDS = 1.0
"""How often the reader looks at its watch."""
ANSWER_SECONDS = 3.0
"""After so long without a confirmation a frame is sent again."""
RETRY_SECONDS = 0.25
"""Before a frame that the server could not take goes out again."""
JOIN_SECONDS = 15.0
"""How long `close` waits for a thread that a silent server keeps."""
RECONNECT_SECONDS = 0.25
"""Before the next attempt to reach a server; jittered by up to as much again."""

_LONGEST_WAIT = 3600.0

log = logging.getLogger(__name__)


class Post:
    """One frame on its way."""

    __slots__ = ("data", "head", "sent_at", "subject", "until")

    def __init__(self, subject: str, head: bytes, data: bytes, until: float) -> None:
        self.subject = subject
        self.head = head
        self.data = data
        self.sent_at = 0.0
        self.until = until


class Outbox:
    """`judge` sees each confirmation and says whether the frame is to be sent again.

    `refused` is told of each frame that the server will never take. `limit` is how many frames may
    be unconfirmed; then `post` waits. `on_connect` returns frames that open each new connection.
    The threads start with the first `post`.
    """

    def __init__(
        self,
        open_wire: Callable[[], Wire],
        *,
        name: str,
        judge: Callable[[Post, Arrival], bool],
        refused: Callable[[BrokerError], None] | None = None,
        on_connect: Callable[[], Iterable[bytes]] = tuple,
        limit: int | None = None,
    ) -> None:
        self._open_wire = open_wire
        self._name = name
        self._judge = judge
        self._refused = refused or self._log_refusal
        self._on_connect = on_connect
        self._limit = limit
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """In a forked child too: what the parent has posted is the parent's to send."""
        # Entered as such: a Condition's `with` is Python code, and an actor's interrupt that comes
        # in there would leave the lock taken for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._wire: Wire | None = None
        self._unconfirmed: dict[int, Post] = {}
        self._outgoing: list[bytes] = []
        self._again: set[int] = set()
        self._number = 0
        self._closed = False
        self._writer_waits = False
        self._waiters = 0

    def post(
        self,
        subject: str,
        data: bytes,
        *,
        head: bytes = b"",
        lifetime: float = float("inf"),
        patience: float = float("inf"),
    ) -> None:
        """Send it, and send it again until it is confirmed, for `lifetime` seconds at most.

        Waits up to `patience` seconds for room. Raises ConnectionClosed when there was none.
        """
        post = Post(subject, head, data, monotonic() + lifetime)
        with self._lock:
            if self._limit is not None and len(self._unconfirmed) >= self._limit:
                self._await_room(patience)
            if self._closed:
                raise ConnectionClosed("the connection is closed")
            self._start()
            self._number += 1
            self._unconfirmed[self._number] = post
            if self._wire is not None:
                self._push(self._number, post, self._wire)

    def whisper(self, frames: Iterable[bytes]) -> None:
        """Send frames once, if there is a connection; nobody confirms them."""
        with self._lock:
            if self._wire is not None:
                self._outgoing.extend(frames)
                self._wake_writer()

    def _await_room(self, patience: float) -> None:
        deadline = monotonic() + patience
        self._waiters += 1
        try:
            while len(self._unconfirmed) >= (self._limit or 0) and not self._closed:
                if not self._changed.wait(min(deadline - monotonic(), _LONGEST_WAIT)):
                    raise ConnectionClosed("NATS does not confirm what was sent before")
        finally:
            self._waiters -= 1

    def _push(self, number: int, post: Post, wire: Wire) -> None:
        size = len(post.head) + len(post.data)
        if size > wire.max_payload:  # the server would hang up, each time
            del self._unconfirmed[number]
            self._refused(MessageTooLarge(f"{size} bytes; the server takes {wire.max_payload}"))
            return
        post.sent_at = monotonic()
        reply = f"{wire.inbox}.{number}"
        self._outgoing.append(protocol.publication(post.subject, reply, post.head, post.data))
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer_waits:
            self._changed.notify_all()
            self._writer_waits = False

    def connect(self) -> None:
        """Have the connection ready before the first `post`. Returns at once."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._threads or self._closed:
            return
        for target in (self._read, self._write):
            thread = threading.Thread(target=target, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    # The writer

    def _write(self) -> None:
        while (turn := self._next_turn()) is not None:
            wire, frames = turn
            try:
                wire.send(b"".join(frames))
            except ConnectionClosed as error:  # the reader is told too, and opens another wire
                log.debug("%s: %s", self._name, error)
            except Exception:
                log.exception("%s: cannot send", self._name)

    def _next_turn(self) -> tuple[Wire, list[bytes]] | None:
        with self._lock:
            while not self._outgoing or self._wire is None:
                if self._closed:
                    return None
                self._writer_waits = True
                self._changed.wait()
            frames, self._outgoing = self._outgoing, []
            return self._wire, frames

    # The reader

    def _read(self) -> None:
        while not self._closed:
            try:
                with self._open_wire() as wire:
                    self._begin(wire)
                    while not self._closed and not wire.lame:
                        self._listen(wire)
                        self._send_again(wire)
            except (ConnectionClosed, ConnectionFailed, PermissionDenied) as error:
                log.debug("%s: %s", self._name, error)
                self._pause()
            except Exception:
                log.exception("%s: cannot go on, connects anew", self._name)
                self._pause()

    def _pause(self) -> None:
        with self._lock:
            self._wire = None
            self._changed.wait_for(lambda: self._closed, _jittered(RECONNECT_SECONDS))

    def _listen(self, wire: Wire) -> None:
        try:
            self._take(wire.receive(RETRY_SECONDS if self._again else TICK_SECONDS))
        except PermissionDenied as error:
            if self._drop_denied(error):
                return
            if "Subscription" in str(error):
                self._refused(error)
                raise
            log.warning("%s: %s", self._name, error)

    def _begin(self, wire: Wire) -> None:
        wire.send(protocol.subscription(f"{wire.inbox}.*", 1) + b"".join(self._on_connect()))
        with self._lock:
            self._wire = wire
            self._outgoing = []
            self._again = set()
            for number, post in list(self._unconfirmed.items()):
                self._push(number, post, wire)

    def _take(self, arrivals: list[Arrival]) -> None:
        if not arrivals:
            return
        confirmed = []
        for arrival in arrivals:
            number = int(arrival.subject.rpartition(".")[2])
            post = self._unconfirmed.get(number)
            if post is not None and self._judge(post, arrival):
                self._again.add(number)
            else:
                confirmed.append(number)
        with self._lock:
            for number in confirmed:
                self._unconfirmed.pop(number, None)
            if self._waiters:
                self._changed.notify_all()

    def _drop_denied(self, error: PermissionDenied) -> int:
        """The server names the subject. It may also be that of a whisper or of the answers, or of
        frames that were dropped at the first of several denials."""
        text = str(error)
        with self._lock:
            denied = [
                number
                for number, post in self._unconfirmed.items()
                if f'Publish to "{post.subject}"' in text
            ]
            for number in denied:
                del self._unconfirmed[number]
                self._refused(error)
            self._changed.notify_all()
        return len(denied)

    def _log_refusal(self, error: BrokerError) -> None:
        log.error("%s: %s", self._name, error)

    def _send_again(self, wire: Wire) -> None:
        """What the server refused for the moment, and what it never answered."""
        late = monotonic() - ANSWER_SECONDS
        with self._lock:
            if not self._again and not self._is_late(late):
                return
            refused, self._again = self._again, set()
            for number, post in list(self._unconfirmed.items()):
                if post.until < monotonic():
                    log.warning("%s: given up, the server never confirmed", self._name)
                    del self._unconfirmed[number]
                elif number in refused and post.sent_at > monotonic() - RETRY_SECONDS:
                    self._again.add(number)
                elif number in refused or post.sent_at < late:
                    self._push(number, post, wire)
            self._changed.notify_all()

    def _is_late(self, late: float) -> bool:
        oldest = next(iter(self._unconfirmed.values()), None)
        return oldest is not None and oldest.sent_at < late

    # The end

    def drain(self, timeout: float) -> int:
        """Wait until all that was posted so far is confirmed, `timeout` seconds at most; how many
        frames are not."""
        with self._lock:
            last = self._number
            self._waiters += 1
            try:
                self._changed.wait_for(
                    lambda: self._closed or not self._left_of(last), min(timeout, _LONGEST_WAIT)
                )
            finally:
                self._waiters -= 1
            return self._left_of(last)

    def _left_of(self, last: int) -> int:
        """Numbers rise, so the oldest ones come first."""
        left = 0
        for number in self._unconfirmed:
            if number > last:
                break
            left += 1
        return left

    def close(self, timeout: float) -> int:
        """Drain, hang up and end the threads; how many frames stay unconfirmed. Idempotent."""
        left = self.drain(timeout) if self._threads else 0
        with self._lock:
            self._closed = True
            wire = self._wire
            self._changed.notify_all()
        if wire is not None:
            wire.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)
        return left


def _jittered(seconds: float) -> float:
    return seconds * (1 + random.random())
