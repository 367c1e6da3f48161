"""What the broker does at the turns of a worker's and a message's life. The last of all middleware.

Being last, it is told of a message just before its actor, and first of all after it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware

from .messages import NatsMessage, delivery_of

if TYPE_CHECKING:
    from .broker import NatsBroker

AGAIN_SECONDS = 5.0
"""After so long a message runs again whose successors could not be enqueued."""


class Lifecycle(Middleware):
    """Of one broker."""

    def __init__(self, broker: NatsBroker) -> None:
        self._broker = broker
        self._here = threading.local()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Count the run, before it can kill this process."""
        self._here.finishing = None
        if self._broker.runs is not None and isinstance(message, NatsMessage):
            self._broker.runs.begins(delivery_of(message.ack_subject))

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """From now on other middleware enqueues what follows: retries, callbacks, pipelines."""
        self._here.finishing = message

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Nothing follows any more."""
        self._here.finishing = None

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Nothing follows any more."""
        self._here.finishing = None

    def could_not_enqueue(self) -> None:
        """What follows from this thread's message is not stored. Dramatiq swallows that error and
        would acknowledge the message; instead it runs again."""
        message = getattr(self._here, "finishing", None)
        if isinstance(message, NatsMessage):
            message.retry_in(AGAIN_SECONDS)

    def before_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        """A worker that stops waits for its running actors: what waits here goes back meanwhile."""
        self._broker.stop_pulling()
        for item in iter_queue(worker.work_queue):
            item.message.consumer.requeue([item.message])
            worker.work_queue.task_done()
