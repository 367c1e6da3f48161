"""Gunicorn's worker: accepts, and hands whole requests to threads.

The main thread accepts clients and closes those whose time is up. The other threads, `--threads` at
most, wait at one epoll, each for one event at a time: whoever gets it reads, and once a request is
whole, answers it itself. So nothing is passed between threads, and a client that waits costs none.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from datetime import datetime
from time import monotonic, sleep
from typing import Any

from gunicorn.http import wsgi
from gunicorn.workers.base import Worker

from .connection import LINGER_SECONDS, Connection, HeadTooLong, Incoming
from .crew import Crew
from .large import LargeBodies
from .output import Output

SWEEP_SECONDS = 0.1
"""Between two looks at whose time is up."""
DEFAULT_MAX_BODY = 1024 * 1024
"""Bytes, for an application that does not say."""

_ONE_READ = select.EPOLLIN | select.EPOLLONESHOT
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class WholeRequestWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """`--worker-connections` is how many clients may be connected to one process."""

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[int, Connection] = {}  # all, by file descriptor
        self._waiting: dict[int, Connection] = {}  # those that no thread has
        self._large = LargeBodies()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Raises ValueError for what only gunicorn's own workers can do."""
        if cfg.is_ssl or cfg.proxy_protocol not in (False, "off"):
            raise ValueError("TLS and the PROXY protocol are for the proxy in front, not for us")

    def run(self) -> None:
        """Until SIGTERM, and then as long as requests are under way, within the grace time."""
        self._epoll, self._doors = select.epoll(), select.epoll()
        app_config = getattr(self.wsgi, "config", {})
        self._max_body = app_config.get("MAX_CONTENT_LENGTH") or DEFAULT_MAX_BODY
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for number, listener in self._listeners.items():
            listener.setblocking(False)
            self._doors.register(number, select.EPOLLIN)
        self._doors.register(self.PIPE[0], select.EPOLLIN)  # signals are told there
        self._crew = Crew(self._epoll, self._attend, self.cfg.threads)
        while self.alive and self.ppid == os.getppid():
            self._mind_the_door()
        self._leave()

    def _mind_the_door(self) -> None:
        self.notify()
        self._crew.reinforce()
        for number, _ in self._doors.poll(SWEEP_SECONDS):
            if number in self._listeners:
                self._accept(self._listeners[number])
            else:
                self._hear()
        self._sweep()

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    def _leave(self) -> None:
        """Idle clients may have sent a request just now: they are listened to a moment longer."""
        for listener in self.sockets:
            listener.close()
        leaves = monotonic() + self.cfg.graceful_timeout
        soon = monotonic() + LINGER_SECONDS
        while self._connections and monotonic() < leaves:
            self.notify()
            self._crew.reinforce()
            for connection in list(self._waiting.values()):
                if not connection.begun:
                    connection.deadline = min(connection.deadline, soon)
            self._sweep()
            sleep(0.05)

    # --- whose time is up ------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        if len(self._connections) >= self.cfg.worker_connections:
            self._evict()
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                self._evict()
            return
        connection = Connection(client, address, self.cfg, self._max_body)
        self._connections[connection.number] = connection
        self._waiting[connection.number] = connection
        self._epoll.register(connection.number, _ONE_READ)

    def _evict(self) -> None:
        """Make room: the client that has been silent for the longest time is the slowest."""
        waiting = list(self._waiting.values())
        if waiting:
            self._dismiss(min(waiting, key=lambda connection: connection.since))

    def _sweep(self) -> None:
        now = monotonic()
        for connection in list(self._waiting.values()):
            if connection.deadline <= now and (connection.begun or not connection.has_news()):
                self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        if self._waiting.pop(connection.number, None) is not connection:
            return  # a thread was faster
        with suppress(OSError):
            if connection.begun:
                connection.tell("408 Request Timeout")
            connection.forget()
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._connections.get(connection.number) is connection:
            del self._connections[connection.number]
        connection.close()
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        for successor in self._large.leave(connection):
            self._arm(successor)

    # --- in the threads --------------------------------------------------------------------------

    def _attend(self, number: int) -> None:
        connection = self._waiting.pop(number, None)
        if connection is None:
            return  # its time was up just now
        try:
            stays = connection.receive() and self._answer_all(connection)
        except OSError as error:
            self.log.debug("A connection was lost: %s", error)
            stays = False
        except Exception:
            self.log.exception("A connection could not be served.")
            stays = False
        if stays:
            self._wait_for_more(connection)
        else:
            self._close(connection)

    def _wait_for_more(self, connection: Connection) -> None:
        admitted = self._large.admit(connection)
        self._waiting[connection.number] = connection
        if admitted or not connection.paused:  # it may have been resumed since
            self._arm(connection)

    def _arm(self, connection: Connection) -> None:
        with suppress(OSError, ValueError):  # it was closed meanwhile
            self._epoll.modify(connection.number, _ONE_READ)

    def _answer_all(self, connection: Connection) -> bool:
        """All requests that are there; False when the connection is over."""
        while not connection.lingering:
            try:
                request = connection.request()
            except Exception as error:
                self._refuse(connection, error)
                connection.stop_reading()
                return True
            if request is None:
                return True
            keeps = self._answer(connection, request)
            keeps = connection.finish() and keeps
            self._release(connection)
            if not keeps:
                connection.stop_reading()
        return True

    def _refuse(self, connection: Connection, error: Exception) -> None:
        """A head that gunicorn does not take."""
        if isinstance(error, HeadTooLong):
            connection.tell("431 Request Header Fields Too Large")
            return
        output = Output(connection.socket)
        self.handle_error(None, output, connection.address, error)
        output.flush()

    def _answer(self, connection: Connection, request: Incoming) -> bool:
        """Whether the connection may be kept. Raises OSError."""
        output = Output(connection.socket)
        try:
            keeps = self._run_application(connection, request, output)
        except OSError:
            raise
        except Exception as error:
            self.handle_error(request.message, output, connection.address, error)
            keeps = False
        output.flush()
        return keeps

    def _run_application(self, connection: Connection, request: Incoming, output: Output) -> bool:
        started = datetime.now()
        message = request.message
        response, environ = wsgi.create(
            message, output, connection.address, connection.server, self.cfg
        )
        environ["wsgi.multithread"] = True
        del environ["wsgi.file_wrapper"]  # it would send files past `output`
        self._count()
        if not self.alive or not self.cfg.keepalive:
            response.force_close()
        parts = self.wsgi(environ, response.start_response)
        try:
            for part in parts:
                response.write(part)
            response.close()
        finally:
            self.log.access(response, message, environ, datetime.now() - started)
            if hasattr(parts, "close"):
                parts.close()
        return not response.should_close()

    def _count(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
