"""From a submission to a `Job`, or to a `JobInvalid` that says which field is wrong.

    load_job(data, job_id=...)      shape (the marshmallow schema), then rules, then limits

The shape and the rules, their order and their texts are those that clients of the first Hades
know; the limits are what this one refuses on top. Names of fields are matched in any case, null
means the default, unknown fields are ignored. No text ever quotes a value: it may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load
from marshmallow.validate import Range

from executors.errors import JobInvalid
from executors.job import Job, Priority, Step

MAX_INT64 = 2**63 - 1
MAX_STEPS = 100
MAX_STRING = 128 * 1024 - 1
"""Bytes of one argument or one environment string that the kernel hands to a program."""
MAX_SECONDS = MAX_INT64 // 10**9
"""The longest timeout that fits into 64 bits of nanoseconds; for cores of CPU alike."""

_MAX_NAMED = 10  # problems that one answer lists
_SIZE = re.compile(r"([0-9]{1,20})([GgMm])")
_SIZE_UNITS = {"m": 1024**2, "g": 1024**3}
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./-]{1,64}")


def parse_size(text: str) -> int:
    """Bytes of `512m` or `2G` (units of 1024); empty: 0. Raises ValueError, also past int64."""
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size: write a whole number and the unit m or g, like 512m")
    size = int(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size > MAX_INT64:
        raise ValueError("not a size: it exceeds 64 bits")
    return size


def load_job(data: object, *, job_id: str) -> Job:
    """The job that `data`, decoded JSON, describes. Raises JobInvalid, with the fields' paths."""
    if not isinstance(data, Mapping):
        raise JobInvalid("Invalid JSON body: expected an object")
    shaped = _shape(data)
    for wrong in _seed_rules(shaped):
        text = wrong.text if wrong.field in wrong.text else f"{wrong.text} ({wrong.field})"
        raise JobInvalid(text, wrong.field)
    _refuse("Invalid request payload: ", list(_limits(shaped)))
    steps = tuple(_step(step) for step in shaped.pop("steps"))
    return Job(**{**shaped, "id": job_id, "steps": steps})


@dataclass(frozen=True, slots=True)
class _Wrong:
    field: str
    text: str


def _refuse(prefix: str, problems: list[_Wrong]) -> None:
    """Raises JobInvalid when there are any."""
    if not problems:
        return
    named = problems[:_MAX_NAMED]
    texts = [f"{wrong.field} {wrong.text}" for wrong in named]
    if len(problems) > len(named):
        texts.append(f"and {len(problems) - len(named)} more")
    raise JobInvalid(prefix + "; ".join(texts), ", ".join(wrong.field for wrong in named))


# --- shape ---------------------------------------------------------------------------------------


class _Text(fields.String):
    default_error_messages = {"invalid": "must be a string"}


class _Flag(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class _Number(fields.Integer):
    """A whole number of 64 bits, not below `least`; no float, no boolean, no digits in a string."""

    default_error_messages = {"invalid": "must be a whole number"}

    def __init__(self, *, least: int = -MAX_INT64 - 1, load_default: int = 0) -> None:
        error = "must be a whole number" + (", 0 or more," if least == 0 else "") + " of 64 bits"
        limits = Range(least, MAX_INT64, error=error)
        super().__init__(strict=True, load_default=load_default, validate=limits)


class _Environment(fields.Field):  # type: ignore[type-arg]  # generic only in later versions
    """Names to strings; null is the empty string."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValidationError("must be an object")
        strings = {key: "" if text is None else text for key, text in value.items()}
        wrong = [key for key, text in strings.items() if not isinstance(text, str)]
        if wrong:
            raise ValidationError({key: ["must be a string"] for key in wrong})
        return strings


class _Object(Schema):
    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "must be an object"}

    @pre_load
    def fold(self, data: Any, **_: Any) -> Any:
        """Names of fields in any case, the last of equal ones wins; null leaves the default."""
        if not isinstance(data, Mapping):
            return {} if data is None else data
        named = ((str(key).casefold(), value) for key, value in data.items())
        return {_ALIASES.get(key, key): value for key, value in named if value is not None}


_ALIASES = {"continueonerror": "continue_on_error"}


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
    id = fields.UUID(error_messages={"invalid_uuid": "must be a UUID"})
    name = _Text(load_default="")
    priority = _Number(load_default=int(Priority.HIGH))
    timestamp = _Text(load_default="0001-01-01T00:00:00Z")
    metadata = _Environment(load_default=dict)
    steps = fields.List(
        fields.Nested(_StepShape),
        load_default=list,
        error_messages={"invalid": "must be a list"},
    )
    callback_url = _Text(load_default="")
    timeout_seconds = _Number()

    @pre_load
    def fill_steps(self, data: Any, **_: Any) -> Any:
        """A step that is null is one without fields."""
        return data
