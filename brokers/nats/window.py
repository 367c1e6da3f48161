"""Messages into a stream with their confirmations taken later: for bursts.

`publish` returns when the message is in the window, which holds it until the server has confirmed
it. So a process that dies loses what it had not seen confirmed; nothing else does.
"""

from __future__ import annotations

import atexit
import logging
import math
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from dramatiq.errors import BrokerError

from .connection import NatsConnection
from .errors import ConnectionClosed, ConnectionFailed, MessageTooLarge, NobodyAnswers
from .forks import after_fork
from .outbox import Outbox, Post
from .protocol import Arrival
from .publisher import Publication, check_answer

CLOSE_SECONDS = 10.0
"""How long a closing window waits for confirmations."""
DECLARE_SECONDS = 1.0
"""How long a missing stream may need to appear once it was declared."""

log = logging.getLogger(__name__)


class Window:
    """At most `size` messages are unconfirmed; then `publish` waits.

    A message that the server refuses is reported by the next `publish` or `wait`.
    """

    def __init__(
        self, connection: NatsConnection, declare: Callable[[], None], *, size: int
    ) -> None:
        self._connection = connection
        self._declare = declare
        self._size = size
        self._reset()
        self._outbox = Outbox(
            connection.open_wire,
            name="nats-window",
            judge=self._judge,
            refused=self._note_refusal,
            limit=size,
        )
        after_fork(self._reset)
        _drain_at_exit(self)

    def _reset(self) -> None:
        self._refusals: deque[BrokerError] = deque(maxlen=self._size)
        self._declared_at = -math.inf

    def publish(self, publication: Publication, patience: float) -> None:
        """`patience` is in seconds, for a window that stays full.

        Raises what the server said to an earlier message; MessageTooLarge; ConnectionClosed, then
        this message is not in the window.
        """
        self._report()
        if publication.size > self._connection.max_payload:
            raise MessageTooLarge(
                f"{publication.size} bytes; the server takes {self._connection.max_payload}"
            )
        self._outbox.post(
            publication.subject, publication.data, head=publication.head, patience=patience
        )

    def wait(self, timeout: float) -> None:
        """Until everything is confirmed. Raises ConnectionClosed after `timeout` seconds."""
        left = self._outbox.drain(timeout)
        self._report()
        if left:
            raise ConnectionClosed(f"{left} messages are not confirmed")

    def _report(self) -> None:
        with suppress(IndexError):
            raise self._refusals.popleft()

    def _judge(self, post: Post, arrival: Arrival) -> bool:
        try:
            check_answer(arrival)
        except NobodyAnswers:
            self._declare_again()
        except ConnectionClosed:
            pass  # no leader at the moment
        except BrokerError as error:
            self._note_refusal(error)
            return False
        else:
            return False
        return True

    def _note_refusal(self, error: BrokerError) -> None:
        self._refusals.append(error)

    def _declare_again(self) -> None:
        """Once for all that come back together; those that come back after it try again."""
        if monotonic() - self._declared_at < DECLARE_SECONDS:
            return
        try:
            self._declare()
        except (ConnectionClosed, ConnectionFailed) as error:
            log.debug("nats-window: %s", error)
        except BrokerError as error:
            log.error("the stream is gone and cannot be declared: %s", error)
        self._declared_at = monotonic()

    def close(self) -> int:
        """Wait for confirmations, then hang up; how many are missing. Idempotent."""
        missing = self._outbox.close(CLOSE_SECONDS)
        while self._refusals:
            missing += 1
            log.error("a message was refused: %s", self._refusals.popleft())
        return missing


def _drain_at_exit(window: Window) -> None:
    reference = weakref.ref(window)

    def drain() -> None:
        alive = reference()
        missing = alive.close() if alive is not None else 0
        if missing:
            log.error("messages were never confirmed, they are lost: %d", missing)

    atexit.register(drain)
