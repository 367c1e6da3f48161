"""From a submission to a `Job`, or to a `JobInvalid` that says which fields are wrong.

    load_job(data, job_id=...)      shape, then the first Hades' rules, then our own limits

The schemas below are the shape: names of fields are matched in any case, null means the default,
unknown fields are ignored, and no value is converted. What goes beyond is in `rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load
from marshmallow.validate import Range

from executors.errors import JobInvalid
from executors.job import Job, Priority, Step
from executors.quick_shapes import QuickShape, Taker, Unusual, exactly, strings
from executors.rules import MAX_INT64, Problem, limits, name_path, parse_size, seed_rules

__all__ = ["MAX_STEPS", "load_job", "parse_size"]

MAX_STEPS = 100

_MAX_TOLD = 10  # problems that one answer lists
_ALIASES = {"continueonerror": "continue_on_error"}
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def load_job(data: object, *, job_id: str) -> Job:
    """The job that `data`, decoded JSON, describes. Raises JobInvalid, with the fields' paths."""
    if not isinstance(data, Mapping):
        raise JobInvalid("Invalid JSON body: expected an object")
    shaped = _QUICK.load(data) or _shaped(data)
    for first in seed_rules(shaped):
        told = first.text if first.path in first.text else f"{first.text} ({first.path})"
        raise JobInvalid(told, first.path)
    _refuse("Invalid request payload", list(limits(shaped)))
    steps = tuple(_step(step) for step in shaped["steps"])
    return Job(**{**shaped, "id": job_id, "steps": steps})


def _shaped(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        shaped: dict[str, Any] = _SHAPE.load(data)
    except ValidationError as error:
        _refuse("Invalid JSON body", list(_flatten("", error.messages)))
        raise
    return shaped


def _step(shaped: Mapping[str, Any]) -> Step:
    sizes = {name: parse_size(shaped[name]) for name in ("memory_limit", "memory_swap")}
    return Step(**{**shaped, **sizes})


def _refuse(prefix: str, problems: list[Problem]) -> None:
    """Raises JobInvalid when there are any."""
    if not problems:
        return
    told = problems[:_MAX_TOLD]
    texts = [problem.text for problem in told]
    if len(problems) > len(told):
        texts.append(f"and {len(problems) - len(told)} more")
    paths = dict.fromkeys(problem.path for problem in told)
    raise JobInvalid(f"{prefix}: {'; '.join(texts)}", ", ".join(paths))


def _flatten(path: str, messages: Any) -> Iterator[Problem]:
    """From marshmallow's nested messages to one for each path."""
    if isinstance(messages, list):
        yield from (Problem(path, f"{path} {message}") for message in messages)
        return
    for key, inner in messages.items():
        yield from _flatten(_join(path, key), inner)


def _join(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key == "_schema":
        return path
    return name_path(path, str(key)) if path else str(key)


# --- the shape -----------------------------------------------------------------------------------


class _Text(fields.String):
    default_error_messages = {"invalid": "must be a string"}


class _Number(fields.Integer):
    """A whole number of 64 bits, not below `least`; no float, no boolean, no string of digits."""

    def __init__(self, *, least: int = -MAX_INT64 - 1, load_default: int = 0) -> None:
        what = "must be a whole number" + (" not below 0" if least == 0 else "")
        limits = Range(least, MAX_INT64, error=f"{what} of at most 64 bits")
        super().__init__(
            strict=True,
            load_default=load_default,
            validate=limits,
            error_messages={"invalid": what, "too_large": what},
        )


class _Flag(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class _Uuid(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            return str(UUID(value))
        except (AttributeError, TypeError, ValueError):
            raise ValidationError("must be a UUID") from None


class _Time(fields.String):
    """RFC 3339; kept as it is written, with all the digits of its second."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        try:
            datetime.fromisoformat(match[1] if match else "")
        except ValueError:
            raise ValidationError("must be a time like 2026-01-31T12:00:00Z") from None
        return str(value)


class _Environment(fields.Raw):
    """Names to strings; null is the empty string."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValidationError("must be an object")
        strings = {key: "" if text is None else text for key, text in value.items()}
        wrong = [key for key, text in strings.items() if not isinstance(text, str)]
        if wrong:
            raise ValidationError({key: ["must be a string"] for key in wrong})
        return strings


class _Steps(fields.List):  # type: ignore[type-arg]  # generic for type checkers alone
    """A step that is null is one without fields."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        if len(value) > MAX_STEPS:  # before they are looked at
            text = f"Invalid request payload: steps must not have more than {MAX_STEPS} entries"
            raise JobInvalid(text, "steps")
        filled = [{} if step is None else step for step in value]
        return super()._deserialize(filled, attr, data, **kwargs)


class _Object(Schema):
    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "must be an object"}

    @pre_load
    def fold(self, data: Any, **_: Any) -> Any:
        """Names in any case, of which the last wins; a null is as good as nothing."""
        if not isinstance(data, Mapping):
            return data
        folded = ((str(key).casefold(), value) for key, value in data.items())
        return {_ALIASES.get(key, key): value for key, value in folded if value is not None}


class _StepShape(_Object):
    id = _Number()
    name = _Text(load_default="")
    image = _Text(load_default="")
    script = _Text(load_default="")
    continue_on_error = _Flag(load_default=False)
    metadata = _Environment(load_default=dict)
    cpu_limit = _Number(least=0)
    memory_limit = _Text(load_default="")
    memory_swap = _Text(load_default="")
    pids_limit = _Number()
    network = _Text(load_default="")


class _JobShape(_Object):
    id = _Uuid()
    name = _Text(load_default="")
    priority = _Number(load_default=int(Priority.HIGH))
    timestamp = _Time(load_default="0001-01-01T00:00:00Z")
    metadata = _Environment(load_default=dict)
    steps = _Steps(fields.Nested(_StepShape), load_default=list)
    callback_url = _Text(load_default="")
    timeout_seconds = _Number()


_SHAPE = _JobShape()  # holds nothing of what it loads: one serves all threads


# --- the same for what is ordinary, quickly ------------------------------------------------------


def _quick_number(field: _Number) -> Taker:
    (limits,) = field.validators
    assert isinstance(limits, Range)
    least, most = limits.min, limits.max

    def take(value: Any) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise Unusual
        return value

    return take


def _quick_steps(_: object) -> Taker:
    def take(value: Any) -> list[Any]:
        if type(value) is not list or len(value) > MAX_STEPS:
            raise Unusual
        return [_QUICK_STEP.take(step) for step in value]

    return take


_QUICK_FIELDS = {
    _Text: exactly(str),
    _Flag: exactly(bool),
    _Number: _quick_number,
    _Environment: strings,
    _Steps: _quick_steps,
}
_QUICK_STEP = QuickShape(_StepShape(), _QUICK_FIELDS)
_QUICK = QuickShape(_SHAPE, _QUICK_FIELDS)
