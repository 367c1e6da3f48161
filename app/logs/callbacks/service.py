"""The outbox's loop in a thread of its own, for as long as the process lives."""

from __future__ import annotations

import atexit
import logging
import ssl
import threading

from environs import Env

from app.logs.callbacks.guard import AddressGuard, Allowed
from app.logs.callbacks.sender import CallbackSender
from app.logs.callbacks.transport import Poster
from app.settings import CallbackSettings
from brokers.callbacks.backoff import Backoff
from brokers.callbacks.loop import Limits
from brokers.callbacks.queue import CallbackQueue, open_callbacks
from brokers.job_store import JobStore
from brokers.log_reader import LogReader
from brokers.nats.connection import NatsConnection
from brokers.settings import NatsSettings

STOP_SECONDS = 25.0
"""Less than gunicorn gives a process that is to end."""

log = logging.getLogger(__name__)


class CallbackService:
    """Started once."""

    def __init__(self, queue: CallbackQueue, sender: CallbackSender, limits: Limits) -> None:
        self._queue = queue
        self._sender = sender
        self._limits = limits
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    def start(self) -> None:
        """In the background, until `stop` or the end of the process."""
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Waits for what is under way. Idempotent."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        atexit.unregister(self.stop)

    def _run(self) -> None:
        try:
            self._queue.run(self._sender, self._stopping, limits=self._limits)
        finally:
            self._queue.close()


def callback_service(
    env: Env, connection: NatsConnection, store: JobStore, reader: LogReader
) -> CallbackService:
    """With the environment's settings. Raises environs.EnvError."""
    settings = CallbackSettings.from_env(env)
    guard = AddressGuard(Allowed.of(settings.allow))
    poster = Poster(guard, timeout=settings.timeout, tls=ssl.create_default_context())
    sender = CallbackSender(
        store, reader, poster, secrets=settings.secrets, permanent=settings.permanent
    )
    queue = open_callbacks(NatsSettings.from_env(env), connection, backoff=_backoff(settings))
    return CallbackService(
        queue, sender, Limits(threads=settings.threads, per_host=settings.per_host)
    )


def _backoff(settings: CallbackSettings) -> Backoff:
    return Backoff(first=settings.backoff, longest=settings.max_backoff, max_age=settings.max_age)
