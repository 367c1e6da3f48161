"""A cluster of three real nats-servers on the loopback, each of which can be broken alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from brokers.embedded import die_with_parent, find_server
from tests.acceptance.processes import free_port, until

SIZE = 3
STOP_SECONDS = 10.0
ASK_SECONDS = 1.0
"""A node that is stopped by a signal never answers."""


class Node:
    """One server process. `stop`, `kill` and `start` keep its ports and its data."""

    def __init__(self, directory: Path, name: str, ports: Sequence[int], routes: list[int]) -> None:
        """`ports` are those of clients, of other nodes and of its monitor."""
        self.name = name
        self._client_port, route_port, self._monitor_port = ports
        self._log = directory / f"{name}.log"
        self._config = directory / f"{name}.conf"
        self._config.write_text(
            f"server_name: {name}\n"
            f'listen: "127.0.0.1:{self._client_port}"\n'
            f'http: "127.0.0.1:{self._monitor_port}"\n'
            f'jetstream {{ store_dir: "{directory / name}" }}\n'
            f'cluster {{ name: faults, listen: "127.0.0.1:{route_port}", routes: ['
            + ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
            + "] }\n"
        )
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For clients."""
        return f"nats://127.0.0.1:{self._client_port}"

    def start(self) -> None:
        """Returns at once; see `healthy`."""
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                (find_server(), "-c", str(self._config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        """Ends it cleanly; by force when that takes too long. No-op while it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash would. No-op while it does not run."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its connections, and does nothing."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self._send(signal.SIGCONT)

    def ask(self, path: str) -> dict[str, Any] | None:
        """What its monitor says; None when it says nothing, or that it is not well."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._monitor_port}{path}", timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return None
        return dict(answer.json()) if answer.is_success else None

    @property
    def healthy(self) -> bool:
        """Whether it is in touch with the others, and up to date in all its streams."""
        return self.ask("/healthz") is not None

    @property
    def clients(self) -> int:
        """Connections to it; 0 when it does not say."""
        return int((self.ask("/connz") or {}).get("num_connections", 0))

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def _send(self, signum: signal.Signals) -> None:
        assert self._popen is not None, f"{self.name} does not run"
        os.kill(self._popen.pid, signum)

    def _end(self, signum: signal.Signals) -> None:
        popen, self._popen = self._popen, None
        if popen is None:
            return
        popen.send_signal(signum)
        popen.send_signal(signal.SIGCONT)
        try:
            popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


class Cluster:
    """Three nodes with JetStream. Entering the block starts them, leaving it ends them."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(3 * SIZE)
        routes = ports[SIZE : 2 * SIZE]
        self.nodes = [
            Node(directory, f"n{index + 1}", ports[index::SIZE], routes) for index in range(SIZE)
        ]

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.start()
        try:
            self.await_healthy()
            self.await_that(self.meta_leader, "a leader of the cluster")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self.nodes:
            node.kill()
            if kind is not None:
                print(f"--- {node.name}", node.log()[-2000:], sep="\n")

    @property
    def urls(self) -> list[str]:
        """Of all nodes."""
        return [node.url for node in self.nodes]

    def await_healthy(self) -> None:
        """Until all nodes are up to date."""
        until(lambda: all(node.healthy for node in self.nodes), "three healthy nodes")

    def meta_leader(self) -> Node | None:
        """Who decides about streams; None: nobody at the moment."""
        for answer in self._asked("/jsz"):
            if leader := answer.get("meta_cluster", {}).get("leader"):
                return self._named(leader)
        return None

    def leader_of(self, stream: str) -> Node | None:
        """Who takes the stream's messages; None: nobody at the moment."""
        for answer in self._asked("/jsz?accounts=true&streams=true"):
            for detail in _streams(answer):
                if detail["name"] == stream and detail.get("cluster", {}).get("leader"):
                    return self._named(detail["cluster"]["leader"])
        return None

    def streams(self) -> list[str]:
        """Names of all streams, as any node knows them."""
        answers = self._asked("/jsz?accounts=true&streams=true")
        return sorted({detail["name"] for answer in answers for detail in _streams(answer)})

    def await_that(self, look: Callable[[], Node | None], what: str) -> Node:
        """Until there is such a node."""
        found: list[Node] = []
        until(lambda: bool(node := look()) and not found.append(node), what)
        return found[0]

    def _asked(self, path: str) -> list[dict[str, Any]]:
        return [answer for node in self.nodes if (answer := node.ask(path)) is not None]

    def _named(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


def _streams(answer: dict[str, Any]) -> list[dict[str, Any]]:
    accounts = answer.get("account_details") or []
    return [detail for account in accounts for detail in account.get("stream_detail") or []]


def free_ports(count: int) -> list[int]:
    """Different ones that nobody listens on at the moment."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)
