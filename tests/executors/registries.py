"""Debian's docker-registry as the real registry of the tests, and a way to fill it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.executors.image_archives import INDEX, MANIFEST, config, digest, manifest

_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_PASSWORD = re.compile(r"password=(\S+)")


@dataclass
class RunningRegistry:
    """A registry on this machine's loopback."""

    address: str
    """Host and port: what image references begin with."""
    log: list[str]
    auth: tuple[str, str] | None

    def push_image(self, name: str, layers: list[bytes], stored: list[bytes] | None = None) -> str:
        """`name:tag`, with `stored` as its blobs if they differ; returns its full reference."""
        stored = layers if stored is None else stored
        about = config(layers)
        for blob in (about, *stored):
            self.push_blob(name, blob)
        return self.push_manifest(name, manifest(about, stored), MANIFEST)

    def push_manifest(self, name: str, document: bytes, media_type: str) -> str:
        repository, _, tag = name.partition(":")
        self._call(
            "PUT",
            f"{repository}/manifests/{tag or digest(document)}",
            content=document,
            headers={"Content-Type": media_type},
        )
        return f"{self.address}/{name}" if tag else f"{self.address}/{name}@{digest(document)}"

    def push_index(self, name: str, document: bytes) -> str:
        return self.push_manifest(name, document, INDEX)

    def push_blob(self, name: str, blob: bytes) -> None:
        repository = name.partition(":")[0]
        location = self._call("POST", f"{repository}/blobs/uploads/").headers["Location"]
        self._call("PUT", location, params={"digest": digest(blob)}, content=blob)

    def requests(self, part: str) -> int:
        """How many GET requests for such an address it has answered; known when it has ended."""
        return sum('"GET ' in line and part in line for line in self.log)

    def _call(
        self, method: str, path: str, params: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        url = httpx.URL(f"http://{self.address}/v2/").join(path).copy_merge_params(params or {})
        with httpx.Client(auth=self.auth, trust_env=False) as client:
            return client.request(method, url, **options).raise_for_status()


@contextmanager
def running_registry(directory: Path, *, password: bool = False) -> Iterator[RunningRegistry]:
    """A fresh registry on a free port; with `password` it makes up one for the user `docker`."""
    program = shutil.which("docker-registry")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("docker-registry is not installed")
    auth = f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}\n" if password else ""
    settings = directory / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {accesslog: {disabled: false}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:0'}}\n{auth}"
    )
    with subprocess.Popen(
        [program, "serve", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        registry = _started(process.stdout)
        with ThreadPoolExecutor(1) as reader:
            reader.submit(registry.log.extend, process.stdout)
            try:
                yield registry
            finally:
                process.terminate()


def _started(output: Iterable[str]) -> RunningRegistry:
    """Reads the registry's log up to the line that tells its port."""
    log: list[str] = []
    for line in output:
        log.append(line)
        if listening := _LISTENING.search(line):
            password = _PASSWORD.search("".join(log))
            auth = ("docker", password[1]) if password else None
            return RunningRegistry(address=listening[1], log=log, auth=auth)
    raise AssertionError("".join(log))
