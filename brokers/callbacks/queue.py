"""The outbox: what is put here is told, or becomes a dead letter that says why not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from dramatiq import Message
from dramatiq.errors import BrokerError

from brokers import subjects
from brokers.callbacks.backoff import Backoff
from brokers.callbacks.loop import CallbackLoop, Deliver, Limits
from brokers.callbacks.messages import Callback, CallbackKind, DeadCallback, Told
from brokers.callbacks.targets import CallbackTargets
from brokers.nats import NatsBroker
from brokers.nats.connection import NatsConnection
from brokers.nats.queues import DeadLetter
from brokers.opening import open_broker
from brokers.records import utc_now
from brokers.settings import NatsSettings

__all__ = ["BrokerError", "CallbackQueue", "open_callbacks"]

log = logging.getLogger(__name__)


class CallbackQueue:
    """`broker` must be one that no Dramatiq worker runs on: a worker consumes every queue that its
    broker declares. `clock` gives seconds since the epoch.

    Methods raise BrokerError when NATS stays away; repeating them does no harm.
    """

    def __init__(
        self,
        broker: NatsBroker,
        targets: CallbackTargets,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.targets = targets
        self._broker = broker
        self._backoff = backoff or Backoff()
        self._clock = clock

    def changed(self, record: Told) -> None:
        """The job has entered a state: tell who wants to know its states."""
        self._tell(record, (CallbackKind.STATUS,))

    def ended(self, record: Told) -> None:
        """The job is over, its log complete: tell that, and its log, to who wants to know."""
        self._tell(record, (CallbackKind.LOGS, CallbackKind.STATUS))

    def _tell(self, record: Told, kinds: Iterable[CallbackKind]) -> None:
        if not record.callbacks:
            return
        target = self.targets.get(record.id)
        if target is None:
            return
        told_at = utc_now()
        callbacks = [Callback.of(kind, record, told_at) for kind in kinds]
        wanted = [callback for callback in callbacks if target.wants(callback)]
        for callback in wanted:
            self._enqueue(callback)
        if wanted and record.state.final:
            self.targets.expire(record.id)

    def put(self, kind: CallbackKind, record: Told) -> None:
        """One of them, unconditionally; it is dropped on arrival when nobody wants to know, or
        knows already."""
        self._enqueue(Callback.of(kind, record, utc_now()))

    def _enqueue(self, callback: Callback) -> None:
        self._broker.enqueue(callback.message(), idempotent=True)

    def run(self, deliver: Deliver, stop: threading.Event, *, limits: Limits | None = None) -> None:
        """Tell what there is until `stop` is set. Several processes may do so at once."""
        loop = CallbackLoop(
            self._broker,
            self.targets,
            deliver,
            backoff=self._backoff,
            limits=limits or Limits(),
            clock=self._clock,
        )
        loop.run(stop)

    def dead(self) -> list[DeadCallback]:
        """Those that were given up, oldest first."""
        return [_dead(letter) for letter in self._letters()]

    def replay(self, ids: Iterable[str] | None) -> int:
        """Have those with these ids told again, or all (None); returns how many.

        They begin anew: tries and age count from now.
        """
        wanted = None if ids is None else set(ids)
        chosen = [
            letter.message.message_id
            for letter in self._letters()
            if letter.message is not None and (wanted is None or _id(letter.message) in wanted)
        ]
        return self._broker.requeue_dead_letters(subjects.CALLBACK_QUEUE, chosen)

    def _letters(self) -> list[DeadLetter]:
        self._broker.declare_queue(subjects.CALLBACK_QUEUE)
        self._broker.declare_now(subjects.CALLBACK_QUEUE)
        return self._broker.get_dead_letters(subjects.CALLBACK_QUEUE)

    def close(self) -> None:
        """Hang up. Idempotent; the connection stays."""
        self.targets.close()
        self._broker.close()


def _id(message: Message[None]) -> str:
    return message.message_id.partition("~")[0]


def _dead(letter: DeadLetter) -> DeadCallback:
    callback = None
    try:
        if letter.message is not None:
            callback = Callback.from_dict(letter.message.args[0])
    except Exception:  # whatever the bytes are
        log.debug("a dead letter carries no callback")
    return DeadCallback(
        id=_id(letter.message) if letter.message else "",
        callback=callback,
        reason=letter.reason,
        since=letter.since,
    )


def open_callbacks(
    settings: NatsSettings, connection: NatsConnection, *, backoff: Backoff | None = None
) -> CallbackQueue:
    """The outbox, with a broker of its own on a connection that may be shared."""
    return CallbackQueue(
        open_broker(settings, connection, middleware=[]),
        CallbackTargets(connection, max_age=settings.record_max_age),
        backoff=backoff,
    )
