"""Rate limits that all processes of an installation share, and that cost a request next to nothing.

The bucket itself is a value in NATS, changed by compare-and-set; processes lease tokens of it
(`brokers.leases`), so NATS sees some ten requests a second of a process and limit, whatever the
load is. Without NATS the limit holds for each process alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from brokers import subjects
from brokers.leases import Share, Store, Verdict
from brokers.nats.buckets import Bucket
from brokers.nats.compare_and_set import Changes
from brokers.nats.connection import NatsConnection
from brokers.token_buckets import Rate


def nats_store(connection: NatsConnection) -> Changes:
    """In memory: a NATS that has been restarted begins with full buckets."""
    return Changes(Bucket(connection, subjects.LIMIT_BUCKET, storage="memory"))


class SharedLimits:
    """One bucket for each name. For all threads of a process."""

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a store, limits hold for this process alone.

        `clock` is what the machines have in common, `ticks` what never goes back; in seconds.
        """
        self._store = store
        self._clock = clock
        self._ticks = ticks
        self._lock = threading.Lock()
        self._shares: dict[str, Share] = {}

    def take(self, name: str, rate: Rate, count: int = 1) -> Verdict:
        """`count` tokens of the bucket, or none. What is wrong with NATS raises nothing."""
        with self._lock:
            share = self._shares.get(name)
            if share is None:
                share = Share(name, self._store, self._clock, self._ticks)
                self._shares[name] = share
        return share.take(rate, count)
