"""When a callback that failed is tried again, and when no more."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MAX_DOUBLINGS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """All in seconds."""

    first: float = 5.0
    """The longest pause after the first try; doubled with each further one."""
    longest: float = 300.0
    max_age: float = 86_400.0
    """From the first try to the last."""
    busy: float = 1.0
    """The longest pause of one whose host is busy; doubled each time, 32 times this at most."""

    def pause(self, tries: int) -> float:
        """After so many tries: anything up to the longest, so that not all come at once."""
        doublings = min(max(tries - 1, 0), _MAX_DOUBLINGS)
        return random.uniform(0.0, min(self.longest, self.first * 2.0**doublings))

    def busy_pause(self, deliveries: int) -> float:
        """Before the message is looked at again; this is no try."""
        longest = self.busy * 2.0 ** min(max(deliveries - 1, 0), 5)
        return random.uniform(longest / 2, longest)
