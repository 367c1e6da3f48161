"""Dramatiq on NATS JetStream: a broker, a result backend and a rate-limiter backend.

A product of its own: it knows nothing of jobs and imports nothing outside this package, so any
Dramatiq project can use it. Rooms, from the bottom up:

`errors`, `servers` (addresses and login), `forks`
`protocol` (bytes), `byte_streams` (sockets, TLS), `wire` (one blocking connection)
`connection` (nats-py on a thread, for everything but the hot path), `streams` (names)
`requester` (wires of a pool), `entries`, `buckets` (key-value), `watches`, `compare_and_set`
`publisher` (confirmed one by one), `outbox` (confirmed in the background), `window`, `held`
`pulls` (what to ask for), `messages`, `consumer`, `runs`, `lifecycle`
`queues` (declare, count, purge), `lengths`, `dead_letters`, `server_clock`, `broker`, `results`,
`rate_limits`
"""

from .broker import NatsBroker
from .queues import DeadLetter, LaneStats, QueueStats
from .rate_limits import NatsRateLimiterBackend
from .results import NatsResultBackend

__all__ = [
    "DeadLetter",
    "LaneStats",
    "NatsBroker",
    "NatsRateLimiterBackend",
    "NatsResultBackend",
    "QueueStats",
]
