"""What a request says beside its path. Each of these ends it with a problem for nonsense."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from app.build import read_json
from app.index.query import DEFAULT_LIMIT, MAX_LIMIT, Cursor, Filter
from app.index.rows import microseconds
from app.v1.problems import Refused, parameter_invalid
from executors.job import JobState, Priority

STATES = tuple(JobState)
PRIORITIES = tuple(level.label for level in reversed(Priority))
METADATA = "metadata."

_LISTED = ("state", "name", "priority", "submitted_by", "queued_after", "queued_before")
_PAGED = ("limit", "cursor")


def refuse(name: str, why: str) -> Refused:
    """To be raised."""
    return Refused(parameter_invalid(name, why))


def read_body(*, jobs: int) -> Any:
    """The decoded body, which must say that it is JSON; the caller is charged so many jobs."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType
    return read_json(request, jobs=jobs)


def whole_number(name: str, default: int, least: int, most: int) -> int:
    """A parameter of the query."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise refuse(name, f"must be a whole number from {least} to {most}")
    return int(text)


def only(names: Collection[str]) -> None:
    """Refuse what nobody would look at: a misspelt filter must not admit everything."""
    for name in request.args:
        if name not in names and not (METADATA in names and name.startswith(METADATA)):
            raise refuse(name[:100], "is not a parameter of this route")


def filter_in_query() -> Filter:
    """What a list is asked for."""
    only((*_LISTED, *_PAGED, METADATA))
    after, before = request.args.get("queued_after"), request.args.get("queued_before")
    return Filter(
        states=_words("state", STATES),
        name=request.args.get("name", ""),
        priorities=_words("priority", PRIORITIES),
        submitted_by=request.args.get("submitted_by"),
        metadata={
            name.removeprefix(METADATA): value
            for name, value in request.args.items()
            if name.startswith(METADATA)
        },
        queued_after=_time("queued_after", after),
        queued_before=_time("queued_before", before),
    )


def limit_in_query() -> int:
    """How many jobs a page may have."""
    return whole_number("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)


def cursor_in_query() -> Cursor | None:
    """Where a page begins."""
    text = request.args.get("cursor")
    try:
        return Cursor.decode(text) if text else None
    except ValueError as error:
        raise refuse("cursor", f"is invalid: {error}") from error


def _words(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Several may be given, in one parameter or in many."""
    words = [word for text in request.args.getlist(name) for word in text.split(",")]
    for word in words:
        if word not in known:
            raise refuse(name, f"must be one of {', '.join(known)}")
    return tuple(dict.fromkeys(words))


def _time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return microseconds(text)
    except (ValueError, OverflowError):
        raise refuse(name, "must be a time like 2026-01-31T12:00:00Z") from None


def filter_in_body(body: Any) -> Filter:
    """Which jobs are to be stopped: an empty filter needs a word that says so."""
    if not isinstance(body, Mapping):
        raise refuse("body", "must be an object")
    known = ("name", "metadata", "state", "priority", "submitted_by", "all")
    for key in body:
        if key not in known:
            raise refuse(str(key)[:100], f"is not one of {', '.join(known)}")
    narrowed = [key for key in known[:-1] if body.get(key) not in (None, "", {})]
    if bool(narrowed) == (body.get("all") is True):
        raise refuse("all", "must be true to stop every job, and left out beside a filter")
    open_states = (JobState.QUEUED, JobState.RUNNING)
    state, priority = _word(body, "state", open_states), _word(body, "priority", PRIORITIES)
    submitted_by = _text(body, "submitted_by")
    return Filter(
        states=(state,) if state else open_states,
        name=_text(body, "name") or "",
        priorities=(priority,) if priority else (),
        submitted_by=submitted_by,
        metadata=_strings(body, "metadata"),
    )


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not (isinstance(value, str) and value.isprintable()):
        raise refuse(name, "must be a string of printable characters")
    return value


def _word(body: Mapping[str, Any], name: str, known: Collection[str]) -> str | None:
    word = _text(body, name)
    if word is not None and word not in known:
        raise refuse(name, f"must be one of {', '.join(known)}")
    return word


def _strings(body: Mapping[str, Any], name: str) -> dict[str, str]:
    value = body.get(name) or {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise refuse(name, "must be an object of strings")
    return dict(value)
