"""One NATS connection for all threads of a process.

nats-py lives on an event loop; the loop lives in a daemon thread that belongs to nobody's actor, so
heartbeats go on while actors compute. `run` brings a coroutine there and its result back. The
connection is opened by its first use and reconnects for ever; a forked child opens its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar, Unpack

import nats
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from .errors import ConnectionClosed, ConnectionFailed, MessageTooLarge, translated
from .forks import after_fork
from .servers import DEFAULT_URL, ConnectArguments, Servers
from .wire import Wire

T = TypeVar("T")

REQUEST_SECONDS = 3.0
"""How long one request to the server may take before it is repeated or given up."""
RECONNECT_SECONDS = 0.25
"""Between two rounds over the servers while none answers; jittered by up to as much again."""

_LONGEST_WAIT = 3600.0
_ABANDON_SECONDS = 0.5
_NOBODY_ANSWERS = (
    nats.errors.NoRespondersError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
)

log = logging.getLogger(__name__)


class NatsConnection:
    """Opened lazily, shared by everything in a process that speaks to NATS.

    Raises ValueError for a URL that is none. Files of keys are read when a connection is made.
    """

    def __init__(
        self,
        servers: str | Sequence[str] = DEFAULT_URL,
        **login: Unpack[ConnectArguments],
    ) -> None:
        self.servers = Servers(servers, **login)
        self._renew_lock()
        after_fork(self._renew_lock)
        self._reset()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self._reconnected: list[Callable[[], None]] = []
        self._up = asyncio.Event()

    @property
    def client(self) -> Client:
        """The nats-py client, connected at least once. Use it on the loop only.

        Raises ConnectionFailed.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._reset()
            if self._client is None:
                self._client = self._open()
            return self._client

    def _refuse_on_a_loop(self) -> None:
        """What still runs on the loop after `close` must not open the connection anew."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ConnectionClosed("the connection is closed")

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream on that client."""
        return self.client.jetstream(timeout=REQUEST_SECONDS)

    @property
    def connected(self) -> bool:
        """Whether a server answers at the moment; opens nothing."""
        return self._client is not None and bool(self._client.is_connected)

    @property
    def max_payload(self) -> int:
        """Bytes of a message that the server takes. Raises ConnectionFailed."""
        return int(self.client.max_payload)

    def open_wire(self) -> Wire:
        """A blocking connection of one's own, for the hot path. Raises ConnectionFailed."""
        return Wire.open(self.servers)

    def _open(self) -> Client:
        self._refuse_on_a_loop()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_turn, args=(self._loop,), name="nats", daemon=True
            )
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)
        try:
            return future.result(self.servers.connect_timeout + 5)
        except Exception as error:
            future.cancel()
            reason = str(error) or "it does not answer"
            raise ConnectionFailed(f"no NATS server at {self.servers}: {reason}") from error

    async def _connect(self) -> Client:
        client, complaints = Client(), _Complaints(len(self.servers))
        try:
            await asyncio.wait_for(
                client.connect(
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_SECONDS * (1 + random.random()),  # type: ignore[arg-type]
                    connect_timeout=2,
                    ping_interval=10,
                    max_outstanding_pings=2,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    closed_cb=self._on_closed,
                    error_cb=complaints.note,
                    **self.servers.client_options(),
                ),
                self.servers.connect_timeout,
            )
        except TimeoutError as error:
            await _abandon(client)
            raise complaints.last or error from None
        except BaseException:
            await _abandon(client)
            raise
        complaints.connected = True
        return client

    async def _on_disconnected(self) -> None:
        if self._client is not None:  # nobody has called `close`
            log.warning("NATS connection lost, reconnecting")

    async def _on_closed(self) -> None:
        if self._client is not None:
            log.critical("NATS has closed the connection for good")

    async def _on_reconnected(self) -> None:
        log.info("NATS connection is back")
        self._up.set()
        for callback in list(self._reconnected):
            callback()

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the loop after each reconnect; returns what takes it off again."""
        callbacks = self._reconnected
        callbacks.append(callback)
        return lambda: callbacks.remove(callback)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run `coroutine` on the loop and wait for it, `timeout` seconds at most.

        Raises the errors of `brokers.nats.errors`.
        """
        future = self.spawn(coroutine)
        with translated():
            try:
                result: T = future.result(timeout)
                return result
            except CancelledError as error:  # by `close`, meanwhile
                raise ConnectionClosed("the connection was closed") from error
            except BaseException:
                future.cancel()
                raise

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        """Start `coroutine` on the loop; returns a `concurrent.futures.Future`."""
        try:
            self.client  # noqa: B018 - opens the connection
        except BaseException:
            coroutine.close()
            raise
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def patiently(
        self,
        attempt: Callable[[], Coroutine[Any, Any, T]],
        patience: float,
        *,
        declare: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Run `attempt()` until it gets through, for `patience` seconds of NATS being away.

        What it does must bear repetition (a message id, an expected revision). `declare` is called
        when nobody answers: somebody may have deleted the stream. Raises ConnectionClosed when
        patience is up, and at once what JetStream refuses.
        """
        deadline = monotonic() + patience
        while True:
            remaining = deadline - monotonic()
            try:
                return self.run(self._when_connected(attempt, remaining, declare))
            except ConnectionClosed:
                if monotonic() >= deadline:
                    raise

    async def _when_connected(
        self,
        attempt: Callable[[], Awaitable[T]],
        patience: float,
        declare: Callable[[], Awaitable[None]] | None,
    ) -> T:
        """A request given to a broken connection would be sent later all the same: wait."""
        if not self.client.is_connected:
            self._up.clear()
            await asyncio.wait_for(self._up.wait(), min(max(patience, 0.0), _LONGEST_WAIT))
        try:
            return await attempt()
        except _NOBODY_ANSWERS as error:
            await asyncio.sleep(0.1)  # the server is up, JetStream is not yet
            if declare is not None:
                await declare()
            raise ConnectionClosed("JetStream does not answer yet") from error

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        patience: float = 10.0,
        declare: Callable[[], Awaitable[None]] | None = None,
    ) -> int:
        """Store one message; returns its sequence in the stream when the server has confirmed it.

        `message_id` makes repetition harmless; without one, `headers` must (an expected revision).
        `declare` is as in `patiently`. Raises MessageTooLarge, with nothing sent.
        """
        head = dict(headers or {})
        if message_id is not None:
            head["Nats-Msg-Id"] = message_id
        size, limit = len(payload) + _header_size(head), self.client.max_payload
        if size > limit:  # the server would close the connection, of everybody in this process
            raise MessageTooLarge(f"{size} bytes; the server takes {limit}")

        async def attempt() -> int:
            ack = await self.jetstream.publish(subject, payload, headers=head or None)
            return int(ack.seq)

        return self.patiently(attempt, patience, declare=declare)

    def close(self) -> None:
        """Close the connection and end its thread. Idempotent."""
        with self._lock:
            client, loop, thread, ours = (
                self._client,
                self._loop,
                self._thread,
                self._pid == os.getpid(),
            )
            self._reset()
        if loop is None or thread is None or not ours:
            return
        if client is not None:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result(REQUEST_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(REQUEST_SECONDS)


def _header_size(headers: Mapping[str, str]) -> int:
    """Bytes of the headers on the wire; the server counts them as part of the message."""
    return sum(len(f"{key}: {value}\r\n".encode()) for key, value in headers.items()) + 16


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """A loop's life, in its thread."""
    loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    loop.close()


async def _abandon(client: Client) -> None:
    """nats-py waits for ever for the end of a connection whose TLS handshake has failed."""
    with suppress(Exception):  # it may not have begun either
        await asyncio.wait_for(client.close(), _ABANDON_SECONDS)


class _Complaints:
    """What nats-py says while it connects, again and again, also when that is in vain."""

    def __init__(self, servers: int) -> None:
        self.connected = False
        self.last: Exception | None = None
        self._refusals_left = servers

    async def note(self, error: Exception) -> None:
        """Raises the error that every server would repeat: a wrong login or certificate."""
        log.debug("NATS client: %r", error)
        self.last = error
        refused = isinstance(error, ssl.SSLError) or "authorization" in str(error).lower()
        if refused and not self.connected:
            self._refusals_left -= 1
            if self._refusals_left <= 0:
                raise error
