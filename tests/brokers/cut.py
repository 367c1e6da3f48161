"""A network of one's own between clients and a server, that can be cut.

`Cut` is a relay: while it is cut, connections stay open, new ones are accepted, and not a byte goes
through, as with a switch that has lost its power. `Wire` is a pair of virtual Ethernet devices with
the server in a network namespace at its other end; cut, it drops every packet.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from brokers.embedded import die_with_parent, find_server

_CHUNK = 1 << 16
_JOIN_SECONDS = 5.0
_BACKLOG = 128


class Cut:
    """Relays 127.0.0.1:`port` to 127.0.0.1:`target`. Leaving the block ends all connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port = int(self._listener.getsockname()[1])
        self._through = threading.Event()
        self._through.set()
        self._closed = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._through.set()
        self._hang_up(self._listener)
        self._listener.close()
        self.reset()

    @property
    def url(self) -> str:
        """For clients."""
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Nothing goes through from now on, and nobody is told."""
        self._through.clear()

    def mend(self) -> None:
        """What waits goes through, and all that follows."""
        self._through.set()

    def reset(self) -> None:
        """End every connection, at both ends."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            self._hang_up(each)

    def _start(self, target: object, *arguments: socket.socket) -> None:
        threading.Thread(target=target, args=arguments, name="cut", daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._relay, client)

    def _relay(self, client: socket.socket) -> None:
        with client:
            self._through.wait()
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with server:
                with self._lock:
                    self._sockets |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()
                with self._lock:
                    self._sockets -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                self._through.wait()
                sink.sendall(chunk)
        except OSError:
            pass
        finally:
            self._through.wait()
            self._hang_up(source)
            self._hang_up(sink)

    @staticmethod
    def _hang_up(each: socket.socket) -> None:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class WireError(Exception):
    """This machine, or this user, cannot make network namespaces."""


class Wire:
    """A namespace with a nats-server in it, reached over a virtual wire. For root only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = f"fault{os.getpid()}"
        third = os.getpid() % 250
        self._near, self._far = (f"10.213.{third}.{host}" for host in (1, 2))
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For clients."""
        return f"nats://{self._far}:4222"

    def __enter__(self) -> Self:
        try:
            self._lay()
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__(None, None, None)
            raise WireError(f"no network namespace: {error}") from error
        self._start_server()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        for command in (f"link del {self._name}", f"netns del {self._name}"):
            with suppress(OSError):  # without the command nothing was laid
                subprocess.run(["ip", *command.split()], check=False, capture_output=True)

    def cut(self) -> None:
        """Every packet is dropped from now on, in both directions."""
        for chain in ("INPUT", "OUTPUT"):
            self._inside("iptables", "-w", "-I", chain, "-j", "DROP")

    def mend(self) -> None:
        """Packets go through again."""
        for chain in ("INPUT", "OUTPUT"):
            self._inside("iptables", "-w", "-D", chain, "-j", "DROP")

    def _lay(self) -> None:
        name = self._name
        _run("ip", "netns", "add", name)
        peer = ("peer", "name", "eth0", "netns", name)
        _run("ip", "link", "add", name, "type", "veth", *peer)
        _run("ip", "address", "add", f"{self._near}/30", "dev", name)
        _run("ip", "link", "set", name, "up")
        self._inside("ip", "address", "add", f"{self._far}/30", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")
        self._inside("iptables", "-w", "-L")

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._name, *command)

    def _start_server(self) -> None:
        server = (find_server(), "--addr", self._far, "--port", "4222", "-js")
        with (self._directory / "wire.log").open("wb") as log:
            self._server = subprocess.Popen(
                (
                    *("ip", "netns", "exec", self._name),
                    *(*server, "--store_dir", str(self._directory / "wire")),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
