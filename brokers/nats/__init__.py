"""Dramatiq on NATS JetStream: a broker, a result backend and a rate-limiter backend.

A product of its own: it knows nothing of jobs and imports nothing outside this package, so any
Dramatiq project can use it. Rooms: `connection` (one NATS connection for all threads), `streams`
(names and configuration), `broker` (what is sent), `puller` and `consumer` (what is received),
`results`, `rate_limits`, `errors`.
"""

from .broker import NatsBroker
from .rate_limits import NatsRateLimiterBackend
from .results import NatsResultBackend

__all__ = ["NatsBroker", "NatsRateLimiterBackend", "NatsResultBackend"]
