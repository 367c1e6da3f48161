"""Which values are secrets, and how they are masked: in logs (`redact`) and in what is shown of a
job (`redaction`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import AnyStr

from executors.job import Job

MASK = "••••••"
MIN_SECRET = 4
"""Characters; a shorter value would mask half of every log."""

_SECRET_KEY = re.compile(
    r"token|passwd|password|pwd|secret|api[_-]?key|access[_-]?key|credential|auth(?!or(?!i[sz]))"
    r"|private|cert|signing|session",
    re.IGNORECASE,
)
_WORDS = frozenset(("true", "false", "none", "null"))
"""What switches are set to: no secret, and in every second script."""


def is_secret_key(key: str) -> bool:
    """Whether a value under this key is a secret, in the words of the first Hades."""
    return _SECRET_KEY.search(key) is not None


def secrets_of(job: Job, is_secret: Callable[[str], bool] = is_secret_key) -> frozenset[str]:
    """Values of the job's and its steps' metadata that nobody should read.

    A value of several lines counts as a whole and line by line.
    """
    maps = (job.metadata, *(step.metadata for step in job.steps))
    return frozenset(text for metadata in maps for text in _secret_values(metadata, is_secret))


def _secret_values(metadata: Mapping[str, str], is_secret: Callable[[str], bool]) -> Iterator[str]:
    for key, value in metadata.items():
        if is_secret(key):
            yield from worth_hiding(value)


def worth_hiding(value: str) -> Iterator[str]:
    """What of a secret value is to be looked for elsewhere: the whole, and each of its lines."""
    for text in map(str.strip, (value, *value.splitlines())):
        if len(text) >= MIN_SECRET and text.lower() not in _WORDS:
            yield text


def masked(text: AnyStr, spans: Iterable[tuple[int, int]], instead: AnyStr) -> AnyStr:
    """`text` with each of the spans, which are in order and apart, replaced."""
    pieces = [text[:0]]
    done = 0
    for start, end in spans:
        pieces.extend((text[done:start], instead))
        done = end
    pieces.append(text[done:])
    return text[:0].join(pieces)
