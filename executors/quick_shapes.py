"""What marshmallow makes of an ordinary submission, in a fifth of its time.

    QuickShape(schema, takers).load(data)       None: something is unusual, so ask the schema

Ordinary are fields in lower case that the schema knows, each of its plain type, or null. Anything
else, and so everything that is wrong, is the schema's to judge and to word. A test holds both
against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marshmallow import Schema, ValidationError, missing
from marshmallow.fields import Field
from marshmallow.validate import Range

from executors.values import Environment, Flag, Number, Text

Taker = Callable[[Any], Any]
"""From a field's value in JSON to its value in the shape. Raises Unusual."""


class Unusual(Exception):
    """Not for the quick way."""


class QuickShape:
    """`takers` says what to do with the fields of some classes; others deserialize themselves."""

    def __init__(self, schema: Schema, takers: Mapping[type, Callable[[Any], Taker]]) -> None:
        self._takers: dict[str, Taker] = {}
        self._defaults: dict[str, Any] = {}
        self._factories: list[tuple[str, Callable[[], Any]]] = []
        for name, field in schema.load_fields.items():
            make: Callable[[Any], Taker] = takers.get(type(field), _by_itself)
            self._takers[name] = make(field)
            if callable(field.load_default):
                self._factories.append((name, field.load_default))
            elif field.load_default is not missing:
                self._defaults[name] = field.load_default

    def load(self, data: Any) -> dict[str, Any] | None:
        """What the schema would return, or None: then only the schema knows."""
        try:
            return self.take(data)
        except (Unusual, ValidationError):
            return None

    def take(self, data: Any) -> dict[str, Any]:
        """The same, as a Taker."""
        if type(data) is not dict:
            raise Unusual
        shaped, takers = self._defaults.copy(), self._takers
        for name, value in data.items():
            taker = takers.get(name)
            if taker is None:
                raise Unusual
            if value is not None:
                shaped[name] = taker(value)
        for name, factory in self._factories:
            if name not in shaped:
                shaped[name] = factory()
        return shaped


def _by_itself(field: Field[Any]) -> Taker:
    return field.deserialize


def _exactly(kind: type) -> Callable[[Any], Taker]:
    """For fields that take values of this one type as they are."""

    def take(value: Any) -> Any:
        if type(value) is not kind:
            raise Unusual
        return value

    return lambda field: _by_itself(field) if field.validators else take


def _whole_number(field: Number) -> Taker:
    (limits,) = field.validators
    assert isinstance(limits, Range)
    least, most = limits.min, limits.max

    def take(value: Any) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise Unusual
        return value

    return take


def _strings(_: object) -> Taker:
    def take(value: Any) -> dict[str, str]:
        if type(value) is not dict or not all(type(text) is str for text in value.values()):
            raise Unusual
        return value.copy()

    return take


PLAIN_FIELDS: dict[type, Callable[[Any], Taker]] = {
    Text: _exactly(str),
    Flag: _exactly(bool),
    Number: _whole_number,
    Environment: _strings,
}
"""The fields of `values` that most submissions consist of."""
