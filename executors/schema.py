"""From a submission to a `Job`, or to a `JobInvalid` that says which fields are wrong.

    load_job(data, job_id=...)      shape, then the first Hades' rules, then our own limits

The schemas below are the shape: names of fields are matched in any case, null means the default,
unknown fields are ignored, and no value is converted (`values` has their types). What goes beyond
is in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, pre_load

from executors.errors import JobInvalid
from executors.job import Job, Priority, Retry, RetryOn, Step
from executors.quick_shapes import PLAIN_FIELDS, QuickShape, Taker, Unusual
from executors.rules import Problem, limits, name_path, parse_size, seed_rules
from executors.values import Ends, Environment, Flag, Number, Pause, Retries, Text, Time, Uuid

__all__ = ["MAX_STEPS", "load_job", "parse_size"]

MAX_STEPS = 100

_MAX_TOLD = 10  # problems that one answer lists
_ALIASES = {"continueonerror": "continue_on_error"}


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
    told_by_path = [(problem.path, problem.text) for problem in told]
    raise JobInvalid(f"{prefix}: {'; '.join(texts)}", ", ".join(paths), told_by_path)


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


class _RetryShape(_Object):
    max = Retries(load_default=0)
    backoff_seconds = Pause(load_default=0.0)
    on = Ends(load_default=(RetryOn.FAILURE,))

    @post_load
    def retry(self, shaped: dict[str, Any], **_: Any) -> Retry:
        return Retry(**shaped)


class _StepShape(_Object):
    id = Number()
    name = Text(load_default="")
    image = Text(load_default="")
    script = Text(load_default="")
    continue_on_error = Flag(load_default=False)
    metadata = Environment(load_default=dict)
    cpu_limit = Number(least=0)
    memory_limit = Text(load_default="")
    memory_swap = Text(load_default="")
    pids_limit = Number()
    network = Text(load_default="")
    timeout_seconds = Number()
    retry = fields.Nested(_RetryShape, load_default=Retry())


class _JobShape(_Object):
    id = Uuid()
    name = Text(load_default="")
    priority = Number(load_default=int(Priority.HIGH))
    timestamp = Time(load_default="0001-01-01T00:00:00Z")
    metadata = Environment(load_default=dict)
    steps = _Steps(fields.Nested(_StepShape), load_default=list)
    callback_url = Text(load_default="")
    status_callback_url = Text(load_default="")
    timeout_seconds = Number()
    retry = fields.Nested(_RetryShape, load_default=Retry())


_SHAPE = _JobShape()  # holds nothing of what it loads: one serves all threads


# --- the same for what is ordinary, quickly ------------------------------------------------------


def _quick_steps(_: object) -> Taker:
    def take(value: Any) -> list[Any]:
        if type(value) is not list or len(value) > MAX_STEPS:
            raise Unusual
        return [_QUICK_STEP.take(step) for step in value]

    return take


_QUICK_FIELDS = {**PLAIN_FIELDS, _Steps: _quick_steps}
_QUICK_STEP = QuickShape(_StepShape(), _QUICK_FIELDS)
_QUICK = QuickShape(_SHAPE, _QUICK_FIELDS)
