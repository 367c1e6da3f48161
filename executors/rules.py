"""What a submission of the right shape must keep to, beyond its shape.

`seed_rules` are the rules of the first Hades, in its order and with its texts; `limits` are what
this one refuses on top, because it could only fail later. No text quotes a value: it may be a
secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

MAX_INT64 = 2**63 - 1
MAX_NANO = MAX_INT64 // 10**9
"""The most seconds, and cores, whose billionth parts can be counted in 64 bits."""
MAX_STRING = 128 * 1024 - 1
"""Bytes of the longest argument, or `NAME=value`, that the kernel hands to a program."""

_SIZE = re.compile(r"([0-9]{1,20})([GgMm])")
_UNITS = {"m": 1024**2, "g": 1024**3}
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_HOSTS = re.compile(r"[\s\\^`{|}]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Shaped = Mapping[str, Any]
"""A job or a step as the marshmallow schema leaves it: every field there, and of its type."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong."""

    path: str
    """Like `steps[0].image`; printable ASCII."""
    text: str
    """A sentence for the person who submitted the job."""


def parse_size(text: str) -> int:
    """Bytes of `512m` or `2G` (units of 1024); empty: 0. Raises ValueError, also past 64 bits."""
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size: write a whole number and the unit m or g, like 512m")
    size = int(match[1]) * _UNITS[match[2].lower()]
    if size > MAX_INT64:
        raise ValueError("not a size: it exceeds 64 bits")
    return size


def name_path(path: str, name: str) -> str:
    """The path of one name in a metadata map; names that are no plain words are quoted and cut."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}"
    return f"{path}[{json.dumps(name[:64])}]"


# --- the rules of the first Hades ----------------------------------------------------------------


def seed_rules(job: Shaped) -> Iterator[Problem]:
    """Only the first is ever told."""
    if not job["name"]:
        yield Problem("name", 'Invalid request payload: "name" is required')
    yield from _timeout_rules(job)
    for index, step in enumerate(job["steps"]):
        for problem in _step_rules(step):
            yield Problem(f"steps[{index}].{problem.path}", problem.text)
    for name in ("callback_url", "status_callback_url"):
        wrong = _wrong_with_url(job[name]) if job[name] else ""
        if wrong:
            yield Problem(name, f"Invalid {name}: callback URL {wrong}")


def _timeout_rules(shaped: Shaped) -> Iterator[Problem]:
    """Of a job or a step."""
    if shaped["timeout_seconds"] < 0:
        yield Problem("timeout_seconds", "timeout_seconds cannot be negative")
    if shaped["timeout_seconds"] > MAX_NANO:
        yield Problem("timeout_seconds", f"timeout_seconds must not exceed {MAX_NANO}")


def _step_rules(step: Shaped) -> Iterator[Problem]:
    yield from _memory_rules(step)
    if step["pids_limit"] < 0:
        yield Problem("pids_limit", "pids_limit cannot be negative")
    if step["network"] and not _NETWORK.fullmatch(step["network"]):
        modes = "none, bridge, host, default, or a valid network name"
        yield Problem("network", f"invalid network mode: must be {modes}")
    yield from _timeout_rules(step)


def _memory_rules(step: Shaped) -> Iterator[Problem]:
    try:
        memory = parse_size(step["memory_limit"])
    except ValueError:
        yield Problem("memory_limit", "Failed to parse RAM limit")
        return
    try:
        swap = parse_size(step["memory_swap"])
    except ValueError:
        yield Problem("memory_swap", "Failed to parse memory_swap limit")
        return
    if step["memory_swap"] and not memory:
        yield Problem("memory_swap", "memory_swap requires memory_limit to be set")
    elif step["memory_swap"] and swap < memory:
        yield Problem("memory_swap", "memory_swap must be greater than or equal to memory_limit")


def _wrong_with_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        return "is not parseable"
    if not _parseable(text, url):
        return "is not parseable"
    if not url.scheme:
        return "must be absolute"
    if url.scheme not in ("http", "https"):
        return "scheme must be http or https"
    return "" if host else "must include a host"


def _parseable(text: str, url: SplitResult) -> bool:
    if text.startswith(" ") or _CONTROL.search(text) or _NOT_IN_HOSTS.search(url.netloc):
        return False
    if _BROKEN_ESCAPE.search(text.partition("?")[0]):
        return False
    return bool(url.scheme) or ":" not in text.partition("/")[0]


# --- what this Hades refuses on top --------------------------------------------------------------


def limits(job: Shaped) -> Iterator[Problem]:
    """All of them are told."""
    if job["name"].isspace():
        yield _on("name", "must not be blank")
    yield from _string("name", job["name"], taken=len("JOB_NAME="))
    yield from _environment("metadata", job["metadata"])
    if not job["steps"]:
        yield _on("steps", "is required: a job has at least one step")
    for index, step in enumerate(job["steps"]):
        yield from _step_limits(f"steps[{index}]", step)
    for name in ("callback_url", "status_callback_url"):
        yield from _characters(name, job[name])


def _step_limits(path: str, step: Shaped) -> Iterator[Problem]:
    if not step["image"].strip():
        yield _on(f"{path}.image", "is required")
    for name in ("name", "image", "script"):
        yield from _string(f"{path}.{name}", step[name])
    yield from _environment(f"{path}.metadata", step["metadata"])
    if step["cpu_limit"] > MAX_NANO:
        yield _on(f"{path}.cpu_limit", f"must not exceed {MAX_NANO}")
    if step["network"].lower() == "host":
        yield Problem(f"{path}.network", f"{path}.network: host is not allowed")


def _environment(path: str, metadata: Mapping[str, str]) -> Iterator[Problem]:
    for name, value in metadata.items():
        if _plain_entry(name, value):
            continue
        own = name_path(path, name)
        if not name or "=" in name:
            yield _on(own, "has a name that is empty or contains =")
        yield from _characters(own, name)
        yield from _string(own, value, taken=_size(name) + len("="))


def _plain_entry(name: str, value: str) -> bool:
    """Nothing is wrong with most of them: so what is wrong is only looked for in the others."""
    fits = len(name) + len("=") + len(value) <= MAX_STRING
    return fits and bool(name) and "=" not in name and _plain(name) and _plain(value)


def _string(path: str, text: str, *, taken: int = 0) -> Iterator[Problem]:
    """`taken`: bytes of the kernel's limit that are not for `text`."""
    if _plain(text) and len(text) + taken <= MAX_STRING:
        return
    yield from _characters(path, text)
    if _size(text) + taken > MAX_STRING:
        yield _on(path, f"is too large: the limit is {MAX_STRING - taken} bytes")


def _plain(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _characters(path: str, text: str) -> Iterator[Problem]:
    if "\0" in text:
        yield _on(path, "must not contain NUL characters")
    if _SURROGATE.search(text):
        yield _on(path, "must be valid Unicode, without lone surrogates")


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def _on(path: str, what: str) -> Problem:
    return Problem(path, f"{path} {what}")
