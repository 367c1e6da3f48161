"""Looks whether a Docker Engine is there, by plain HTTP: `app` has no Docker client.

Used by `hades dev` and `hades demo` to choose an executor for a desk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx

_TIMEOUT = 2.0  # seconds that an Engine has for a simple answer


class Engine:
    """The Engine at a `DOCKER_HOST`, which may not be there. `with` closes the connection."""

    def __init__(self, host: str) -> None:
        self.host = host
        address = urlsplit(host)
        socket = address.path if address.scheme == "unix" else None
        self._there = not socket or Path(socket).is_socket()
        self._http = httpx.Client(
            base_url="http://docker" if socket else f"http://{address.netloc}",
            transport=httpx.HTTPTransport(uds=socket),
            timeout=_TIMEOUT,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answers(self) -> bool:
        """Whether it is there and well."""
        return self._there and self._succeeds("/_ping")

    def obtain(self, images: Iterable[str], timeout: float) -> str:
        """Pull what is not there yet, within `timeout` seconds for all; why that failed, or ''."""
        deadline = time.monotonic() + timeout
        for image in images:
            if not self._has(image):
                why = self._pull(image, deadline)
                if not self._has(image):
                    return f"{image} can't be pulled: {why}"
        return ""

    def _has(self, image: str) -> bool:
        return self._succeeds(f"/images/{quote(image)}/json")

    def _succeeds(self, path: str) -> bool:
        try:
            return self._http.get(path).is_success
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    def _pull(self, image: str, deadline: float) -> str:
        """What hindered it; the Engine tells its progress, and its errors, a line at a time."""
        name, tag = split_tag(image)
        query = {"fromImage": name, "tag": tag}
        left = max(0.1, deadline - time.monotonic())
        last = ""
        try:
            with self._http.stream("POST", "/images/create", params=query, timeout=left) as answer:
                for line in answer.iter_lines():
                    last = line or last
                    if time.monotonic() > deadline:
                        return "it takes too long"
        except httpx.TimeoutException:
            return "it takes too long"
        except httpx.HTTPError as error:
            return str(error)
        return _message(last)


def split_tag(image: str) -> tuple[str, str]:
    """Name and tag (`latest` when it has none); a digest stays with the name, without a tag."""
    if "@" in image:
        return image, ""
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return name, tag


def _message(line: str) -> str:
    try:
        content = json.loads(line)
        return str(content.get("message") or content.get("error") or line)
    except (ValueError, AttributeError):
        return line
