"""The SDK's client, with what it lacks: pulls that end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from docker import APIClient
from requests import Response

SILENCE = 600
"""Seconds without news of a pull after which it is given up; the SDK would wait for ever."""


class EngineClient(APIClient):
    """For many threads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As of the SDK."""
        super().__init__(*args, **options)
        self._here = threading.local()

    def post(self, url: Any, *args: Any, **options: Any) -> Response:
        """As of requests; a pull's answer is kept, so that it can be closed."""
        if not str(url).endswith("/images/create"):
            return super().post(url, *args, **options)
        answer = super().post(url, *args, **{**options, "timeout": SILENCE})
        self._here.pull = answer
        return answer

    @contextmanager
    def pulling(self, repository: str, tag: str) -> Iterator[Iterable[dict[str, Any]]]:
        """The progress of a pull, to its end. When the block is left before, the Engine ends it."""
        progress = self.pull(repository, tag, stream=True, decode=True)
        with closing(self._here.pull):
            yield progress
