"""Keeps secrets out of logs and reasons. What is shown of a job itself is made by `redaction`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import AnyStr

from executors.base import OutputStream, Sink
from executors.secrets import MASK, masked
from executors.secrets import secrets_of as secrets_of

MIN_HELD = 64 * 1024
"""Bytes that may wait for what follows, at least."""


def mask(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced."""
    return masked(text, _spans(text, secrets), MASK)


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
            self._sink.write(stream, masked(text[:ready], spans, MASK.encode()))

    def close(self) -> None:
        """Pass on what was held back."""
        for stream, text in self._held.items():
            if text:
                self._held[stream] = b""
                spans = _spans(text, self._secrets)
                self._sink.write(stream, masked(text, spans, MASK.encode()))


def _begun(text: bytes, secret: bytes) -> int:
    """Length of the longest end of `text` with which the secret begins, but does not end."""
    start = text.find(secret[:1], max(0, len(text) - len(secret) + 1))
    while start >= 0:
        if secret.startswith(text[start:]):
            return len(text) - start
        start = text.find(secret[:1], start + 1)
    return 0
