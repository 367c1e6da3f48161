"""Keeps secrets out of logs, reasons and records.

Which values are secrets is told by the name of their key, in the words of the first Hades.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from executors.base import OutputStream, Sink
from executors.job import Job

MASK = "••••••"
MIN_SECRET = 4
"""Characters; a shorter value would mask half of every log."""

_SECRET_KEY = re.compile(
    r"token|passwd|password|pwd|secret|api[_-]?key|access[_-]?key|credential|auth(?!or)"
    r"|private|cert|signing|session",
    re.IGNORECASE,
)


def is_secret_key(key: str) -> bool:
    """Whether a value under this key is a secret."""
    return _SECRET_KEY.search(key) is not None


def secrets_of(job: Job) -> frozenset[str]:
    """Values of the job's and its steps' metadata that nobody should read in a log.

    A value of several lines counts as a whole and line by line.
    """
    found: set[str] = set()
    for metadata in (job.metadata, *(step.metadata for step in job.steps)):
        found.update(_secret_values(metadata))
    return frozenset(found)


def _secret_values(metadata: Mapping[str, str]) -> Iterable[str]:
    for key, value in metadata.items():
        if is_secret_key(key):
            for text in (value, *value.splitlines()):
                if len(text.strip()) >= MIN_SECRET:
                    yield text.strip()


def mask(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


class MaskingSink:
    """Replaces secrets on their way into `sink`, also those that arrive in pieces."""

    def __init__(self, sink: Sink, secrets: Iterable[str]) -> None:
        self._sink = sink
        self._secrets = sorted((secret.encode() for secret in secrets), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._held = dict.fromkeys(OutputStream, b"")

    def open(self, container_id: str) -> None:
        """See `Sink.open`."""
        self._sink.open(container_id)

    def write(self, stream: OutputStream, data: bytes) -> None:
        """See `Sink.write`. What may be the beginning of a secret waits for what follows."""
        text = self._pattern.sub(MASK.encode(), self._held[stream] + data)
        held = self._beginning_of_a_secret(text)
        self._held[stream] = text[len(text) - held :]
        if len(text) > held:
            self._sink.write(stream, text[: len(text) - held])

    def _beginning_of_a_secret(self, text: bytes) -> int:
        longest = min(len(text), len(self._secrets[0]) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(len(secret) > length and secret.startswith(end) for secret in self._secrets):
                return length
        return 0

    def close(self) -> None:
        """Pass on what was held back."""
        for stream, held in self._held.items():
            if held:
                self._sink.write(stream, held)
                self._held[stream] = b""
