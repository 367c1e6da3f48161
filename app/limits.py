"""How many jobs a caller may submit in a time.

add_limits(app, RateLimiter(...))       once, by the composition root
charge()                                within a request: after its body was read,
charge(n - 1)                           and for a batch again, when its n jobs are known
"""

from __future__ import annotations

import math

from flask import Flask, Response, current_app, g

from app.auth import Caller, caller
from brokers.leases import Verdict
from brokers.shared_limits import SharedLimits
from brokers.token_buckets import Rate
from executors.errors import HadesError

_EXTENSION = "hades-limits"
_UNITS = {"s": "second", "m": "minute", "h": "hour"}


class RateLimited(HadesError):
    """The caller submits too fast."""

    def __init__(self, rate: Rate, wait: float) -> None:
        """`wait` is in seconds."""
        self.retry_after = max(1, math.ceil(wait))
        """In whole seconds, as the header says it."""
        super().__init__(
            f"{rate.amount} jobs a {_UNITS[rate.unit]} are allowed, {rate.burst} at once; "
            f"try again in {self.retry_after} s"
        )


class RateLimiter:
    """Counts each caller on a bucket of his own."""

    def __init__(self, limits: SharedLimits, default: Rate | None = None) -> None:
        """`default` is for who has no rate of his own; None: he has no limit."""
        self._limits = limits
        self._default = default

    def take(self, who: Caller, jobs: int) -> tuple[Rate, Verdict] | None:
        """None: he has no limit."""
        rate = who.rate or self._default
        return None if rate is None else (rate, self._limits.take(who.limit, rate, jobs))


def add_limits(app: Flask, limiter: RateLimiter) -> None:
    """From now on, for `charge`; who was charged is told what is left."""
    app.extensions[_EXTENSION] = limiter

    @app.after_request
    def tell(response: Response) -> Response:
        if "charged" in g:
            rate, verdict = g.charged
            response.headers["RateLimit-Limit"] = str(rate.burst)
            response.headers["RateLimit-Remaining"] = str(verdict.remaining)
            response.headers["RateLimit-Reset"] = str(math.ceil(verdict.reset))
        return response


def charge(jobs: int = 1) -> None:
    """Count so many jobs on the caller. Raises RateLimited; then none is counted."""
    limiter: RateLimiter = current_app.extensions[_EXTENSION]
    if jobs < 1 or (taken := limiter.take(caller(), jobs)) is None:
        return
    g.charged = rate, verdict = taken
    if not verdict.allowed:
        raise RateLimited(rate, verdict.wait)
