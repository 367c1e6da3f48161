"""The arithmetic of token buckets: no clock, no I/O.

A bucket is filled at a steady rate and holds at most its burst; who wants to do something takes
tokens out of it, and has to wait when there are too few.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_UNITS = {"s": 1, "m": 60, "h": 3_600}
_RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])")
_TOLERANCE = 1e-6  # tokens; who comes back at the very time that he was told is served


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How fast a bucket is filled, and how much it holds."""

    amount: int
    unit: str = "s"
    """`s`, `m` or `h`: what the amount is for."""
    burst: int
    """Tokens of a full bucket."""

    @classmethod
    def parse(cls, text: str, burst: int = 0) -> Rate:
        """From `50/s`, `3000/m` or `100/h`; a burst of 0 is the amount. Raises ValueError."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError("a rate is written 50/s, 3000/m or 100/h")
        amount = int(match[1])
        return cls(amount=amount, unit=match[2], burst=burst or amount)

    @property
    def per_second(self) -> float:
        """Tokens that come in a second."""
        return self.amount / _UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit}"


@dataclass(frozen=True, slots=True)
class Level:
    """What a bucket held at a time."""

    tokens: float
    """Below zero after more was taken at once than it holds."""
    at: float
    """In seconds, of any clock."""

    def refilled(self, rate: Rate, now: float) -> Level:
        """At `now`; a clock that is behind neither fills the bucket nor turns back its time."""
        passed = max(0.0, now - self.at)
        tokens = min(float(rate.burst), self.tokens + passed * rate.per_second)
        return Level(tokens, max(self.at, now))

    def plus(self, count: float, rate: Rate) -> Level:
        """What was taken in vain goes back."""
        return Level(min(float(rate.burst), self.tokens + count), self.at)

    def minus(self, count: float) -> Level:
        """After so many were taken."""
        return Level(self.tokens - count, self.at)

    def lacks(self, rate: Rate, count: int) -> float:
        """Seconds until `count` may be taken; 0: at once.

        More than the burst may be taken from a full bucket: what it then owes comes in first.
        """
        missing = min(count, rate.burst) - self.tokens
        return missing / rate.per_second if missing > _TOLERANCE else 0.0

    def seconds_to_full(self, rate: Rate) -> float:
        """Until the bucket is full again, if nobody takes anything."""
        return max(0.0, rate.burst - self.tokens) / rate.per_second

    def encode(self) -> bytes:
        """As it is stored; `decode` is the inverse."""
        return json.dumps([self.tokens, self.at]).encode()

    @classmethod
    def decode(cls, value: bytes | None, rate: Rate, now: float) -> Level:
        """At `now`; a bucket of which nothing is stored is full."""
        if value is None:
            return cls(float(rate.burst), now)
        tokens, at = json.loads(value)
        return cls(float(tokens), float(at)).refilled(rate, now)
