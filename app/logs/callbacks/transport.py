"""One POST to a host that nobody here trusts: no redirects, no proxies, no second look at its name,
and an end to everything after a fixed time, however slowly the other side goes on."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

import httpcore
import httpx

from app.logs.callbacks.guard import AddressGuard, AddressRefused
from executors.errors import HadesError

MAX_ANSWER = 64 * 1024
"""Bytes of an answer's body that are read, and forgotten."""
_PORTS = {"http": 80, "https": 443}


class PostFailed(HadesError):
    """No answer; another try may succeed. The text names no more of the URL than its host."""


class PostRefused(HadesError):
    """The request is not made, and never will be."""


class Poster:
    """`timeout` is in seconds, for all from the connection on. Names are resolved before, within
    the time that the system's resolver takes."""

    def __init__(self, guard: AddressGuard, *, timeout: float, tls: ssl.SSLContext) -> None:
        self._guard = guard
        self._timeout = timeout
        self._tls = tls

    def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status of the answer. Raises PostFailed, PostRefused."""
        target, login = _parsed(url)
        backend = _Backend(self._guard, self._timeout)
        try:
            with httpcore.ConnectionPool(
                ssl_context=self._tls, max_connections=1, network_backend=backend
            ) as pool:
                return self._exchange(pool, target, {**headers, **login}, body)
        except AddressRefused as error:
            raise PostRefused(str(error)) from None
        except Exception as error:  # whatever a hostile server makes the libraries raise
            raise PostFailed(self._why(error)) from None

    def _exchange(
        self, pool: httpcore.ConnectionPool, url: httpcore.URL, headers: dict[str, str], body: bytes
    ) -> int:
        with pool.stream("POST", url, headers=list(headers.items()), content=body) as answer:
            with suppress(Exception):  # what counts is there already
                left = MAX_ANSWER
                for chunk in answer.iter_stream():
                    left -= len(chunk)
                    if left <= 0:
                        break
            return answer.status

    def _why(self, error: Exception) -> str:
        if isinstance(error, (TimeoutError, httpcore.TimeoutException)):
            return f"no answer within {self._timeout:g} seconds"
        if isinstance(error, socket.gaierror):
            return "the host's name cannot be resolved"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or 'it failed'}"
        if isinstance(error, OSError) and error.strerror:
            return f"no connection: {error.strerror}"
        return f"no valid answer: {type(error).__name__}"


def _parsed(text: str) -> tuple[httpcore.URL, dict[str, str]]:
    """What is asked for, and the header that a user info means."""
    try:
        url = httpx.URL(text)
    except Exception:
        raise PostRefused("the URL cannot be understood") from None
    if url.scheme not in _PORTS or not url.host:
        raise PostRefused("the URL is not one of http or https")
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < 65_536:
        raise PostRefused("the URL names no port")
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=port, target=url.raw_path)
    if not url.userinfo:
        return target, {"Host": url.netloc.decode("ascii")}
    login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    return target, {"Host": url.netloc.decode("ascii"), "Authorization": f"Basic {login}"}


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses that the guard has found, one after the other."""

    def __init__(self, guard: AddressGuard, timeout: float) -> None:
        self._guard = guard
        self._timeout = timeout

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Within the time of the whole; each address gets its share of what is left."""
        addresses = self._guard.addresses(host, port)
        deadline = monotonic() + self._timeout
        for number, address in enumerate(addresses):
            share = (deadline - monotonic()) / (len(addresses) - number)
            try:
                connected = socket.create_connection((address, port), max(0.001, share))
            except OSError:
                if number == len(addresses) - 1:
                    raise
            else:
                return _Stream(connected, deadline)
        raise AssertionError


class _Stream(httpcore.NetworkStream):
    """A socket on which everything together ends at `deadline`, of the monotonic clock."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline

    def _hurry(self) -> None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As `recv`."""
        self._hurry()
        return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of it. A receiver that hangs up may have answered before."""
        left = memoryview(buffer)
        while left:
            self._hurry()
            try:
                left = left[self._socket.send(left) :]
            except TimeoutError:
                raise
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """The certificate must be that of the URL's name."""
        try:
            self._hurry()
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _Stream(wrapped, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Only what the library asks for."""
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return None
