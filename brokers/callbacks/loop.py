"""Takes callbacks from the queue, has them delivered, and decides what becomes of those that fail.

A message is acknowledged only when its callback was delivered, waits as another message, or lies
among the dead letters. So one may be told twice, when a process dies in between, but never less
than once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from dramatiq import Message
from dramatiq.common import dq_name
from dramatiq.errors import BrokerError

from brokers import subjects
from brokers.callbacks.backoff import Backoff
from brokers.callbacks.crew import Crew
from brokers.callbacks.hosts import Hosts
from brokers.callbacks.messages import RETRY_LANE, Callback, Delivery, Outcome, Verdict
from brokers.callbacks.targets import CallbackTargets
from brokers.nats import NatsBroker
from brokers.nats.consumer import NatsConsumer
from brokers.nats.messages import NatsMessage

RETRY_SECONDS = 1.0
"""Pause before the queue is opened again after NATS was not there."""
CLOCK_SECONDS = 2.0
"""By how much the clock of whoever failed to call may be ahead of ours."""
LOOK_MS = 500
"""How often the loop looks whether it is to end."""

Deliver = Callable[[Delivery], Outcome]
"""Tries once, from any thread. An exception of NATS counts as no try, any other as a failure."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of one process."""

    threads: int = 16
    per_host: int = 4


class CallbackLoop:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self,
        broker: NatsBroker,
        targets: CallbackTargets,
        deliver: Deliver,
        *,
        backoff: Backoff,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._targets = targets
        self._deliver = deliver
        self._backoff = backoff
        self._threads = limits.threads
        self._hosts = Hosts(limits.per_host)
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then waits for what is under way."""
        with Crew(self._threads, self._take) as crew:
            while not stop.is_set():
                try:
                    self._consume(crew, stop)
                except BrokerError as error:
                    log.warning("callbacks wait for NATS: %s", error)
                    stop.wait(RETRY_SECONDS)

    def _consume(self, crew: Crew[NatsMessage], stop: threading.Event) -> None:
        with ExitStack() as stack:
            consumers = [stack.enter_context(closing(each)) for each in self._consumers()]
            while not stop.is_set():
                for consumer in consumers:
                    message = next(consumer)
                    if message is not None:
                        crew.give(message)

    def _consumers(self) -> list[NatsConsumer]:
        """Of the queue; on a server without schedules, also of what waits there."""
        queue = subjects.CALLBACK_QUEUE
        self._broker.declare_queue(queue)
        self._broker.declare_now(queue)
        waiting = {dq_name(queue)} & self._broker.get_declared_delay_queues()
        queues = [queue, *waiting]
        return [
            self._broker.consume(name, prefetch=self._threads, timeout=LOOK_MS // len(queues))
            for name in queues
        ]

    # One message, in a thread of the crew

    def _take(self, message: NatsMessage) -> None:
        try:
            self._settle(message)
        except Exception as error:  # whatever it is, the callback stays in the queue
            log.warning("a callback waits after %s", type(error).__name__, extra=_fields(message))
            message.retry_in(self._backoff.busy_pause(message.deliveries))
        message.consumer.ack(message)

    def _settle(self, message: NatsMessage) -> None:
        wait = float(message.options.get("eta", 0)) / 1000 - time.time()
        if wait > 0 and message.deliveries == 1:  # afterwards clocks do not matter any more
            message.retry_in(min(wait, self._backoff.longest + CLOCK_SECONDS))
            return
        callback = self._callback_of(message)
        if callback is None:
            self._bury(message, "the message carries no callback")
            return
        target = self._targets.get(callback.job_id)
        if target is None or not target.wants(callback):
            log.info("nobody is to be called any more", extra=_fields(message))
        else:
            self._try(message, callback, target.url(callback.kind))

    def _callback_of(self, message: NatsMessage) -> Callback | None:
        try:
            return Callback.from_dict(message.args[0])
        except Exception:
            return None

    def _try(self, message: NatsMessage, callback: Callback, url: str) -> None:
        with self._hosts.slot(url) as free:
            if not free:
                message.retry_in(self._backoff.busy_pause(message.deliveries))
                return
            started = self._clock()
            number = int(message.options.get("retries", 0)) + 1
            outcome = self._outcome(Delivery(callback=callback, url=url, number=number))
        match outcome.verdict:
            case Verdict.DELIVERED:
                self._delivered(message, callback)
            case Verdict.AGAIN:
                self._again(message, number, started, outcome.reason)
            case Verdict.NEVER:
                self._bury(message, outcome.reason)

    def _outcome(self, delivery: Delivery) -> Outcome:
        try:
            return self._deliver(delivery)
        except BrokerError:
            raise
        except Exception as error:
            log.exception("a callback could not be made")
            why = f"the callback could not be made: {type(error).__name__}"
            return Outcome(verdict=Verdict.AGAIN, reason=why)

    def _delivered(self, message: NatsMessage, callback: Callback) -> None:
        log.info("callback delivered", extra=_fields(message))
        try:
            self._targets.mark(callback)
        except BrokerError as error:  # at worst it is told again
            log.warning("a delivered callback is not marked: %s", error, extra=_fields(message))

    def _again(self, message: NatsMessage, tries: int, started: float, reason: str) -> None:
        """The time of the first try travels as the message's own, from its second try on."""
        first = started if tries == 1 else message.message_timestamp / 1000
        pause = self._backoff.pause(tries)
        if self._clock() + pause - first > self._backoff.max_age:
            self._bury(message, f"given up after {tries} tries: {reason}")
            return
        log.info("callback failed: %s", reason, extra=_fields(message))
        self._broker.enqueue(_retry(message, tries, first), delay=pause * 1000, idempotent=True)

    def _bury(self, message: NatsMessage, reason: str) -> None:
        log.warning("callback given up: %s", reason, extra=_fields(message))
        self._broker.bury(subjects.CALLBACK_QUEUE, message.arrival, reason)


def _retry(message: NatsMessage, tries: int, first: float) -> Message[None]:
    """Its id follows from the message that failed: who fails with it again, after a crash, makes
    no second one."""
    root = message.message_id.partition("~")[0]
    return Message(
        queue_name=subjects.CALLBACK_QUEUE,
        actor_name=subjects.CALLBACK_ACTOR,
        args=message.args,
        kwargs={},
        options={"retries": tries, "broker_priority": RETRY_LANE},
        message_id=f"{root}~{message.message_timestamp}~{tries}",
        message_timestamp=int(first * 1000),
    )


def _fields(message: NatsMessage) -> dict[str, str]:
    facts = message.args[0] if message.args else None
    job_id = str(facts.get("job_id", "")) if isinstance(facts, dict) else ""
    return {"job_id": job_id, "callback_id": message.message_id.partition("~")[0]}
