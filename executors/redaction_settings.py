"""Settings of what is shown of a job, for every process that stores or shows jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from environs import Env
from marshmallow import ValidationError
from marshmallow.validate import OneOf

from executors.redaction import RedactMode, Redactor


@dataclass(frozen=True, kw_only=True, slots=True)
class RedactionSettings:
    """Which values are secrets. An empty variable counts as unset."""

    mode: RedactMode = RedactMode.SMART
    """`smart`, or `all` to mask every value of the metadata. `SECRET_REDACT_MODE`."""
    key_patterns: tuple[str, ...] = ()
    """Regular expressions, separated by commas, that say which keys name secrets, in any case;
    empty: the built-in ones. `SECRET_KEY_PATTERNS`."""

    @classmethod
    def from_env(cls, env: Env) -> RedactionSettings:
        """Raises environs.EnvError, naming the variable."""
        if mode := env.str("SECRET_REDACT_MODE", ""):
            mode = env.str("SECRET_REDACT_MODE", validate=OneOf(list(RedactMode)))
        patterns = env.str("SECRET_KEY_PATTERNS", "", validate=_check)
        return cls(mode=RedactMode(mode or cls().mode), key_patterns=_split(patterns))

    def redactor(self) -> Redactor:
        """With these settings."""
        return Redactor(self.mode, self.key_patterns or None)


def _split(patterns: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, patterns.split(","))))


def _check(patterns: str) -> None:
    for pattern in _split(patterns):
        try:
            re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise ValidationError(f"{pattern!r} is no regular expression: {error}") from error
