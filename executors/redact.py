"""Keeps secrets out of logs, reasons and records.

Which values are secrets is told by the name of their key, in the words of the first Hades.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import AnyStr

from executors.base import OutputStream, Sink
from executors.job import Job

MASK = "••••••"
MIN_SECRET = 4
"""Characters; a shorter value would mask half of every log."""
MIN_HELD = 64 * 1024
"""Bytes that may wait for what follows, at least."""

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
    return _masked(text, _spans(text, secrets), MASK)


def _spans(text: AnyStr, secrets: Iterable[AnyStr]) -> list[tuple[int, int]]:
    """Where secrets stand, in order; those that overlap count as one."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(span for secret in secrets for span in _places(text, secret)):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _places(text: AnyStr, secret: AnyStr) -> Iterator[tuple[int, int]]:
    start = text.find(secret)
    while start >= 0:
        yield start, start + len(secret)
        start = text.find(secret, start + 1)


def _masked(text: AnyStr, spans: Iterable[tuple[int, int]], instead: AnyStr) -> AnyStr:
    pieces = [text[:0]]
    done = 0
    for start, end in spans:
        pieces.extend((text[done:start], instead))
        done = end
    pieces.append(text[done:])
    return text[:0].join(pieces)


class MaskingSink:
    """Replaces secrets on their way into `sink`, also those that arrive in pieces."""

    def __init__(self, sink: Sink, secrets: Iterable[str]) -> None:
        self._sink = sink
        self._secrets = [secret.encode() for secret in secrets]
        self._most_held = max([MIN_HELD, *(2 * len(secret) for secret in self._secrets)])
        self._held = dict.fromkeys(OutputStream, b"")

    def open(self, container_id: str) -> None:
        """See `Sink.open`."""
        self._sink.open(container_id)

    def write(self, stream: OutputStream, data: bytes) -> None:
        """See `Sink.write`. What may be the beginning of a secret waits for what follows."""
        text = self._held[stream] + data
        spans = _spans(text, self._secrets)
        ready = len(text) - max((_begun(text, secret) for secret in self._secrets), default=0)
        while spans and spans[-1][1] > ready:  # it goes on, or may turn out to be a longer one
            ready = min(ready, spans.pop()[0])
        if len(text) - ready > self._most_held:  # overlapping secrets without an end
            ready, spans = len(text), _spans(text, self._secrets)
        self._held[stream] = text[ready:]
        if ready:
            self._sink.write(stream, _masked(text[:ready], spans, MASK.encode()))

    def close(self) -> None:
        """Pass on what was held back."""
        for stream, text in self._held.items():
            if text:
                self._held[stream] = b""
                spans = _spans(text, self._secrets)
                self._sink.write(stream, _masked(text, spans, MASK.encode()))


def _begun(text: bytes, secret: bytes) -> int:
    """Length of the longest end of `text` with which the secret begins, but does not end."""
    start = text.find(secret[:1], max(0, len(text) - len(secret) + 1))
    while start >= 0:
        if secret.startswith(text[start:]):
            return len(text) - start
        start = text.find(secret[:1], start + 1)
    return 0
