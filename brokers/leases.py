"""A process's share of a token bucket in NATS.

When it needs many tokens, it takes several at once and spends them by itself; what it did not need
within a second goes back with its next request. While the bucket is known to be empty NATS is not
asked.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from dramatiq.errors import BrokerError

from brokers.nats.compare_and_set import Decide, Write
from brokers.token_buckets import Level, Rate

PATIENCE = 0.25
"""Seconds that a request waits for NATS to come back, or for another thread that asks it."""
LEASE_SECONDS = 1.0
"""How long tokens may be spent after they were taken."""
CHUNK_SECONDS = 0.1
"""A process that needs tokens again within this time takes twice as many as before, up to those
that come in it. When they were not needed in LEASE_SECONDS, it takes single ones again."""
EMPTY_SECONDS = 0.02
"""After the bucket was found empty, NATS is not asked for so long."""
AWAY_SECONDS = 1.0
"""After NATS did not answer, it is not asked for so long."""
_KEPT = (
    60.0  # seconds that a bucket stays stored when it must be full; clocks may differ by as much
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether tokens could be taken."""

    allowed: bool
    wait: float = 0.0
    """Seconds after which another try may succeed; 0 when it was allowed."""
    remaining: int
    """Tokens that are left, as far as this process knows."""
    reset: float
    """Seconds until the bucket is full, as far as this process knows."""


class Store(Protocol):
    """Where the buckets are."""

    def change(self, key: str, decide: Decide, *, patience: float) -> bool:
        """As `brokers.nats.compare_and_set.Changes.change`."""


@dataclass(kw_only=True, slots=True)
class _Lease:
    """One request to the bucket."""

    rate: Rate
    count: int
    """Tokens that are needed now."""
    chunk: int
    """Tokens that are wanted, if there are plenty."""
    returned: int
    """Tokens of the last lease, that go back."""
    clock: Callable[[], float]
    taken: int = 0
    level: Level | None = None
    """What the bucket holds now; None: NATS did not answer."""

    def decide(self, value: bytes | None) -> Write | None:
        level = Level.decode(value, self.rate, self.clock()).plus(self.returned, self.rate)
        enough = not level.lacks(self.rate, self.count)
        self.taken = max(self.count, min(self.chunk, int(level.tokens) // 4)) if enough else 0
        self.level = level = level.minus(self.taken)
        if not enough:
            return None
        return Write(level.encode(), level.seconds_to_full(self.rate) + _KEPT)

    @property
    def left(self) -> int:
        """Tokens that the process has now."""
        return self.taken - self.count if self.taken else self.returned


class Share:
    """What this process knows and has of one bucket. For all its threads."""

    def __init__(
        self,
        name: str,
        store: Store | None,
        clock: Callable[[], float],
        ticks: Callable[[], float],
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._now = ticks
        self._turn = threading.Condition()
        self._asking = False
        self._seen: Level | None = None
        """Since then others can only have taken from it, but for what they give back."""
        self._leased = 0
        self._leased_at = 0.0
        self._chunk = 1
        self._empty_until = 0.0
        self._away_until = 0.0
        self._reached = True

    def take(self, rate: Rate, count: int) -> Verdict:
        """`count` tokens, or none."""
        deadline = monotonic() + PATIENCE
        with self._turn:
            while (verdict := self._without_nats(rate, count)) is None and self._asking:
                if not self._turn.wait(deadline - monotonic()):
                    verdict = self._alone(rate, count)
                    break
            if verdict is not None:
                return verdict
            self._asking = True
            lease = self._new_lease(rate, count)
        try:
            self._ask(lease)
        finally:
            with self._turn:
                verdict = self._settle(lease)
        return verdict

    def _without_nats(self, rate: Rate, count: int) -> Verdict | None:
        """None: it must be asked."""
        now = self._now()
        if self._leased >= count and now - self._leased_at <= LEASE_SECONDS:
            self._leased -= count
            return self._verdict(rate, 0.0)
        if self._store is None or now < self._away_until:
            return self._alone(rate, count)
        wait = max(self._known(rate).lacks(rate, count), self._empty_until - now)
        return self._verdict(rate, wait) if wait > 0 else None

    def _known(self, rate: Rate) -> Level:
        """What the bucket holds at most, with what we have of it."""
        now = self._now()
        seen = self._seen or Level(float(rate.burst), now)
        return seen.refilled(rate, now).plus(self._leased, rate)

    def _alone(self, rate: Rate, count: int) -> Verdict:
        """As if there was no other process."""
        known = self._known(rate)
        wait = known.lacks(rate, count)
        if not wait:
            self._seen, self._leased = known.minus(count), 0
        return self._verdict(rate, wait)

    def _verdict(self, rate: Rate, wait: float) -> Verdict:
        known = self._known(rate)
        return Verdict(
            allowed=not wait,
            wait=wait,
            remaining=max(0, int(known.tokens)),
            reset=known.seconds_to_full(rate),
        )

    def _new_lease(self, rate: Rate, count: int) -> _Lease:
        returned, self._leased = self._leased, 0
        most = min(int(rate.per_second * CHUNK_SECONDS), rate.burst // 8)
        age = self._now() - self._leased_at
        factor = 2 if age <= CHUNK_SECONDS else 1
        self._chunk = max(1, min(self._chunk * factor, most)) if age <= LEASE_SECONDS else 1
        return _Lease(
            rate=rate, count=count, chunk=self._chunk, returned=returned, clock=self._clock
        )

    def _ask(self, lease: _Lease) -> None:
        assert self._store is not None
        try:
            self._store.change(self._name, lease.decide, patience=PATIENCE)
        except BrokerError as error:
            lease.level, lease.taken = None, 0
            if self._reached:
                log.warning("NATS keeps no rate limit, so this process goes on alone: %r.", error)
        self._reached = lease.level is not None

    def _settle(self, lease: _Lease) -> Verdict:
        """Note what has come of it, and let the others go on."""
        self._asking = False
        self._turn.notify_all()
        self._leased += lease.left
        now = self._now()
        if lease.level is None:
            self._away_until = now + AWAY_SECONDS
            return self._alone(lease.rate, lease.count)
        self._seen = Level(lease.level.tokens, now)
        if lease.taken:
            self._leased_at = now
            return self._verdict(lease.rate, 0.0)
        self._seen = Level(lease.level.tokens - lease.returned, now)
        self._empty_until = now + EMPTY_SECONDS
        wait = max(lease.level.lacks(lease.rate, lease.count), EMPTY_SECONDS)
        return self._verdict(lease.rate, wait)
