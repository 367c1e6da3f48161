"""What may be shown and stored of a job: all of it but its secrets.

Secrets are values under keys whose names say so, values that look like secrets, and whatever in
scripts is assigned to such keys or looks like them. What is known to be a secret is masked wherever
it stands. Every pattern is matched in linear time: starts are pinned and repeats give nothing back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from executors.job import Job
from executors.opaque import hide_opaque, is_opaque
from executors.secrets import MASK, is_secret_key, masked, secrets_of, worth_hiding

__all__ = ["MASK", "MOST_SEARCHED", "RedactMode", "Redactor"]

MOST_SEARCHED = 1_000_000_000
"""Characters that secrets are looked for in, over all secrets of a job. Beyond, all texts are
masked as a whole."""

_FREE = ("name", "image", "script", "network", "callback_url", "status_callback_url")
_SEAM = "\0"
_PEM = re.compile(
    r"-----BEGIN[^-\n]*+-----(?:[^-]++|-(?!----END))*+(?:-----END[^-\n]*+(?:-----)?+)?+"
)
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*+:)[^/\s]*@")
_KEY = re.compile(
    r"(?<![\w.\-/@])(?:"
    r"(?P<key>[\w.\-]++)\\?+[\"']?+[ \t]*+[:=]{1,2}+[ \t]*+"
    r"|(?P<option>--[\w.\-]++)[ \t]++(?=[^\s\-|&;<>]))"
)
_VALUE = re.compile(
    r"""(?:(?:bearer|basic|digest|token)[ \t]++)?+"""
    r"""(?P<value>(?:"(?:[^"\\\n]|\\.)*+"?+|'[^'\n]*+'?+|[^\s"';]++)"""
    r"""(?:(?<![,:{\[(])(?:"[^"\s]*+"|'[^'\s]*+')|(?<=["'])[\w$][^\s"';]*+)*+)""",
    re.IGNORECASE,
)


class RedactMode(StrEnum):
    """How much of the metadata is masked."""

    SMART = "smart"
    """What is a secret by its key or by its looks."""
    ALL = "all"
    """Every value."""


class Redactor:
    """`key_patterns`, regular expressions, say which keys name secrets, in any case; None: those
    of the first Hades. Raises ValueError for a mode, re.error for a pattern that is none.
    """

    def __init__(self, mode: str = "smart", key_patterns: Sequence[str] | None = None) -> None:
        self._mode = RedactMode(mode)
        self._keys = None
        if key_patterns is not None:
            self._keys = [re.compile(pattern, re.IGNORECASE) for pattern in key_patterns]

    def is_secret_key(self, key: str) -> bool:
        """Whether a value under this key is a secret."""
        if self._keys is None:
            return is_secret_key(key)
        return any(pattern.search(key) for pattern in self._keys)

    def metadata(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Names as they are, and masked values. `job` knows more: the secrets of all the maps."""
        return {key: self._value(key, value) for key, value in metadata.items()}

    def text(self, text: str) -> str:
        """A script, or a reason: the same without what looks like a secret."""
        text = _PEM.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
        return hide_opaque(self._without_assigned(text))

    def job(self, job: Job) -> dict[str, Any]:
        """As `Job.to_dict`. Callback URLs end with their path."""
        data = job.to_dict()
        parts = (data, *data["steps"])
        _hide(parts, self._known(job))
        for part in parts:
            part["metadata"] = self.metadata(part["metadata"])
        for step in data["steps"]:
            step["script"] = self.text(step["script"])
        for name in ("callback_url", "status_callback_url"):
            data[name] = self._url(data[name])
        return data

    def matches(self, redacted: Mapping[str, Any], job: Job) -> bool:
        """Whether `redacted` is what is shown of `job`, whatever its id.

        Secrets can't be compared: any value fits a mask.
        """
        return {**redacted, "id": ""} == {**self.job(job), "id": ""}

    def _value(self, key: str, value: str) -> str:
        if not value:
            return ""
        if self._mode is RedactMode.ALL or self.is_secret_key(key) or _looks_secret(value):
            return MASK
        return self.text(value)

    def _url(self, url: str) -> str:
        try:
            parts = urlsplit(url)
            well_formed = bool(parts.hostname) and (parts.port or True)
        except ValueError:
            well_formed = False
        if not well_formed:
            return MASK if url else ""
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{self.text(parts.path)}"

    def _known(self, job: Job) -> frozenset[str]:
        """Secrets that the job's metadata gives away."""
        maps = (job.metadata, *(step.metadata for step in job.steps))
        looks = {value for metadata in maps for value in metadata.values() if _looks_secret(value)}
        return secrets_of(job, self.is_secret_key).union(*map(worth_hiding, looks))

    def _without_assigned(self, text: str) -> str:
        """Masks `value` in `KEY=value`, `key: value` and `--key value`, when the key says so."""
        spans: list[tuple[int, int]] = []
        for match in _KEY.finditer(text):
            if spans and match.start() < spans[-1][1]:
                continue
            secret = self.is_secret_key(match["key"] or match["option"])
            if secret and (value := _VALUE.match(text, match.end())):
                spans.append(_inside_quotes(text, *value.span("value")))
        return masked(text, spans, MASK)


def _inside_quotes(text: str, start: int, end: int) -> tuple[int, int]:
    quoted = end - start > 1 and text[start] in "\"'" and text[start] == text[end - 1]
    return (start + 1, end - 1) if quoted else (start, end)


def _looks_secret(value: str) -> bool:
    return "-----BEGIN" in value or bool(_URL_PASSWORD.search(value)) or is_opaque(value.strip())


def _hide(parts: Sequence[dict[str, Any]], secrets: frozenset[str]) -> None:
    """Mask the secrets in all that a client writes freely, but for names in metadata."""
    texts = _hidden([*_texts(parts)], secrets)
    for part in parts:
        part.update({name: next(texts) for name in _FREE if name in part})
        part["metadata"] = {key: next(texts) for key in part["metadata"]}


def _texts(parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    for part in parts:
        yield from (part[name] for name in _FREE if name in part)
        yield from part["metadata"].values()


def _hidden(texts: list[str], secrets: frozenset[str]) -> Iterator[str]:
    """One for each text. All at once: that takes linear time, also for many short ones."""
    if not secrets:
        return iter(texts)
    whole = _SEAM.join(text.replace(_SEAM, "\ufffd") for text in texts)
    if len(whole) * len(secrets) > MOST_SEARCHED:
        return (MASK if text else "" for text in texts)
    for secret in sorted(secrets, key=len, reverse=True):
        whole = whole.replace(secret.replace(_SEAM, "\ufffd"), MASK)
    return iter(whole.split(_SEAM))
