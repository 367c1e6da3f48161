"""The values that a submission's fields take: their types, and what is said of other ones.

No value is converted, but that null is the default; no text quotes a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import ValidationError, fields
from marshmallow.validate import Range

from executors.job import MAX_PAUSE, RetryOn
from executors.rules import MAX_INT64

MAX_RETRIES = 10

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


class Text(fields.String):
    default_error_messages = {"invalid": "must be a string"}


class Number(fields.Integer):
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


class Flag(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class Uuid(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            return str(UUID(value))
        except (AttributeError, TypeError, ValueError):
            raise ValidationError("must be a UUID") from None


class Time(fields.String):
    """RFC 3339; kept as it is written, with all the digits of its second."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        try:
            datetime.fromisoformat(match[1] if match else "")
        except ValueError:
            raise ValidationError("must be a time like 2026-01-31T12:00:00Z") from None
        return str(value)


class Environment(fields.Raw):
    """Names to strings; null is the empty string."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValidationError("must be an object")
        strings = {key: "" if text is None else text for key, text in value.items()}
        wrong = [key for key, text in strings.items() if not isinstance(text, str)]
        if wrong:
            raise ValidationError({key: ["must be a string"] for key in wrong})
        return strings


class Retries(fields.Raw):
    """0 to MAX_RETRIES."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if type(value) is not int or not 0 <= value <= MAX_RETRIES:
            raise ValidationError(f"must be a whole number from 0 to {MAX_RETRIES}")
        return value


class Pause(fields.Raw):
    """Seconds, up to MAX_PAUSE."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if type(value) not in (int, float) or not 0 <= value <= MAX_PAUSE:
            raise ValidationError(f"must be a number from 0 to {MAX_PAUSE:.0f}")
        return float(value)


class Ends(fields.Raw):
    """Words of RetryOn, at least one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        words = list(RetryOn)
        if not isinstance(value, list) or not value or not all(word in words for word in value):
            raise ValidationError(f"must be a list of one or more of {', '.join(words)}")
        return tuple(dict.fromkeys(map(RetryOn, value)))
