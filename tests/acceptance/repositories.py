"""Git repositories made of directories, and served to containers."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
}


def make_repository(source: Path, target: Path, subject: str) -> str:
    """A repository at `target` with one commit; its short name."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    git(target, "init", "--quiet")
    git(target, "add", ".")
    git(target, "commit", "--quiet", "--message", subject)
    return git(target, "log", "-1", "--format=%h")


def git(directory: Path, *arguments: str) -> str:
    """What git prints, without the settings of whoever runs the tests."""
    own = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", **AUTHOR}
    done = subprocess.run(
        ("git", "-C", str(directory), *arguments),
        env={"PATH": os.environ["PATH"], **own},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@contextmanager
def served(directory: Path, address: str) -> Iterator[int]:
    """The port at which all repositories below `directory` are there for `git://`.

    A git daemon for each connection, as inetd would start it: so the port is ours from the start.
    """
    daemon = ("git", "daemon", "--inetd", "--export-all", f"--base-path={directory}")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            subprocess.run(
                daemon, stdin=self.request, stdout=self.request, stderr=subprocess.DEVNULL
            )

    with socketserver.ThreadingTCPServer((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()
