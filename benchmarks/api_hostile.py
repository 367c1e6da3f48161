"""Clients that a server has to bear: slow ones, and ones that send far too much."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from benchmarks.api_load import request_bytes
from benchmarks.api_servers import Api

HUGE = 20 * 1024 * 1024
"""Bytes of a body that no server wants."""
TIMES = 8
SLOW = 200
"""Clients, a third of each kind."""
_PAUSE = 0.5  # seconds from byte to byte of a slow client
_CHUNK = b"x" * (256 * 1024)


def send_huge(port: int) -> str:
    """One after the other: the answers' status lines, or what went wrong."""
    heard = [_send_one(port, HUGE) for _ in range(TIMES)]
    return ", ".join(f"{told} x{heard.count(told)}" for told in dict.fromkeys(heard))


def _send_one(port: int, size: int) -> str:
    head = f"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        try:
            client.sendall(head.encode())
            for _ in range(size // len(_CHUNK)):
                client.sendall(_CHUNK)
            return client.recv(1024).split(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ")
        except OSError as error:
            return type(error).__name__


@contextmanager
def slow_clients(port: int) -> Iterator[None]:
    """Slow heads, slow bodies and silent connections, meanwhile."""
    request = request_bytes("/build")
    head = request.index(b"\r\n\r\n") + 4
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(SLOW)]
    tails = []
    for number, client in enumerate(clients):
        begun = (20, head + 20, 0)[number % 3]
        client.sendall(request[:begun])
        if begun:
            tails.append((client, iter(request[begun:])))
    over = Event()
    dripping = Thread(target=_drip, args=(tails, over), daemon=True)
    dripping.start()
    try:
        yield
    finally:
        over.set()
        dripping.join()
        for client in clients:
            client.close()


def _drip(tails: list[tuple[socket.socket, Iterator[int]]], over: Event) -> None:
    while not over.wait(_PAUSE):
        for client, tail in tails:
            with suppress(OSError, StopIteration):
                client.sendall(bytes((next(tail),)))


def served_beside_slow_ones(api: Api, seconds: float) -> dict[str, Any] | None:
    """What a normal client gets meanwhile; None: nothing within ten seconds."""
    with slow_clients(api.port):
        if not _answers(api.port, 10.0):
            return None
        return load(api.port, connections=1, seconds=seconds)


def _answers(port: int, patience: float) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as client:
        client.sendall(request_bytes("/build"))
        return bool(select.select([client], [], [], patience)[0])


def load(port: int, **options: object) -> dict[str, Any]:
    """What `api_load` measures, in a process of its own."""
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks.api_load", str(port), *arguments),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout)
    return result
