"""What to ask the server for, so that free slots are filled and no more than those. No I/O.

A consumer has as many slots as messages that it may hold. A plan is told what happens (`released`,
`arrived`, `ended`) and answers with orders. `OneLane` leaves a pull for all free slots standing.
`ManyLanes` asks lane by lane for what is there, each lane for its share, and gives the shares of
empty lanes to the others; when every lane is empty it leaves one pull standing on each, and
withdraws the others when one is answered. What arrives then without a slot is not accepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

EXPIRES_SECONDS = 30.0
"""How long the server keeps a pull that it cannot answer."""
HEARTBEAT_SECONDS = 5.0
"""How often the server says that a pull still stands."""

SWEEP, STANDING = "n", "s"
SWEEP_SECONDS = 3.0
"""How long the answer to a pull that does not wait may take."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask a lane for messages. `token` ends the inbox to which the server answers."""

    lane: int
    batch: int
    token: str
    waits: bool
    """Whether the server keeps it until there are messages."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take no more answers to the pulls of this round."""

    round: int


Order = Pull | Withdraw


class Plan(Protocol):
    """Not thread-safe: its owner keeps a lock."""

    free: int
    """Slots that hold nothing."""

    def start(self) -> list[Order]:
        """The connection is new: whatever was asked is forgotten."""

    def released(self) -> list[Order]:
        """A slot is free again."""

    def arrived(self, lane: int) -> tuple[bool, list[Order]]:
        """A message of the lane came; whether there is a slot for it."""

    def ended(self, token: str, remaining: int) -> list[Order]:
        """The server ended a pull; `remaining` messages of its batch will not come."""

    def stop(self) -> list[Order]:
        """Ask for nothing any more, unless resumed."""

    def resume(self) -> list[Order]:
        """Ask again after a stop."""

    @property
    def patience(self) -> float:
        """Seconds of silence after which what was asked must count as lost."""


class OneLane:
    """All slots in one lane."""

    def __init__(self, slots: int) -> None:
        self.free = self._slots = slots
        self._asked = 0
        self._round = 0
        self._stopped = False

    def start(self) -> list[Order]:
        """Ask for all free slots, in a new round."""
        self._round += 1
        self._asked = 0
        return [Withdraw(self._round - 1), *self._ask()]

    def _ask(self) -> list[Order]:
        """At once for the first slot, and for half of them together while others are asked for."""
        wanted = self.free - self._asked
        if self._stopped or wanted <= 0 or (self._asked and wanted * 2 < self._slots):
            return []
        self._asked += wanted
        return [Pull(0, wanted, f"{STANDING}.{self._round}.0", True)]

    def released(self) -> list[Order]:
        """A slot is free again."""
        self.free += 1
        return self._ask()

    def arrived(self, lane: int) -> tuple[bool, list[Order]]:
        """A message came; there is always a slot, but for what was sent before a withdrawal."""
        self._asked = max(0, self._asked - 1)
        if self.free == 0 or self._stopped:
            return False, []
        self.free -= 1
        return True, self._ask()

    def ended(self, token: str, remaining: int) -> list[Order]:
        """Ask again for what did not come."""
        if int(token.split(".")[1]) != self._round:
            return []
        self._asked = max(0, self._asked - remaining)
        return self._ask()

    def stop(self) -> list[Order]:
        """Ask for nothing any more, unless resumed."""
        self._stopped = True
        return [Withdraw(self._round)]

    def resume(self) -> list[Order]:
        """Ask again after a stop."""
        self._stopped = False
        return self.start()

    @property
    def patience(self) -> float:
        """Two heartbeats may get lost."""
        return 2.5 * HEARTBEAT_SECONDS if self._asked and not self._stopped else math.inf


class ManyLanes:
    """Lane 0 is the top one."""

    def __init__(self, slots: int, shares: Sequence[int]) -> None:
        self.free = slots
        self._all = list(range(len(shares)))
        self._turns = Turns(shares)
        self._round = 0
        self._standing = False
        self._asked: dict[int, int] = {}  # of the sweep: how many are still to come, by lane
        self._lanes: list[int] = []  # of the sweep: which may have more
        self._stopped = False

    def start(self) -> list[Order]:
        """Sweep all lanes."""
        orders = self._withdraw()
        self._round += 1
        self._asked, self._lanes = {}, list(self._all)
        return orders + self._go_on()

    def _withdraw(self) -> list[Order]:
        if not self._standing:
            return []
        self._standing = False
        return [Withdraw(self._round)]

    def _go_on(self) -> list[Order]:
        """The sweep's next questions; when it is over and slots are free, stand and wait."""
        if self._stopped or self._asked or self.free == 0:
            return []
        if not self._lanes:
            return self._stand()
        turns = self._turns.plan(self.free, self._lanes)
        for lane in turns:
            self._asked[lane] = self._asked.get(lane, 0) + 1
        return [
            Pull(lane, batch, f"{SWEEP}.{self._round}.{lane}", False)
            for lane, batch in self._asked.items()
        ]

    def _stand(self) -> list[Order]:
        self._round += 1
        self._standing = True
        return [Pull(lane, 1, f"{STANDING}.{self._round}.{lane}", True) for lane in self._all]

    def released(self) -> list[Order]:
        """A slot is free again: look at all lanes, unless pulls stand on them already."""
        self.free += 1
        if self._standing or self._asked:
            return []
        return self.start()

    def arrived(self, lane: int) -> tuple[bool, list[Order]]:
        """A message of the lane came; whether there is a slot for it."""
        accepted = self.free > 0 and not self._stopped
        if accepted:
            self.free -= 1
            self._turns.took(lane, self._lanes if lane in self._lanes else [lane])
        if lane in self._asked:
            self._asked[lane] -= 1
            if not self._asked[lane]:
                del self._asked[lane]
            return accepted, self._go_on()
        return accepted, self.start() if self._standing else []

    def ended(self, token: str, remaining: int) -> list[Order]:
        """A lane is empty, or a standing pull has expired."""
        kind, number, lane = token.split(".")
        if int(number) != self._round:
            return []
        if kind == STANDING:
            return self.start() if self._standing else []
        self._asked.pop(int(lane), None)
        if int(lane) in self._lanes:
            self._turns.empty(int(lane))
            self._lanes.remove(int(lane))
        return self._go_on()

    def stop(self) -> list[Order]:
        """Ask for nothing any more, unless resumed."""
        self._stopped = True
        return self._withdraw()

    def resume(self) -> list[Order]:
        """Ask again after a stop."""
        self._stopped = False
        return self.start()

    @property
    def patience(self) -> float:
        """A sweep is answered at once; of standing pulls, two heartbeats may get lost."""
        if self._stopped or not (self._asked or self._standing):
            return math.inf
        return SWEEP_SECONDS if self._asked else 2.5 * HEARTBEAT_SECONDS


def plan(slots: int, lanes: int) -> Plan:
    """The plan for so many lanes."""
    return OneLane(slots) if lanes == 1 else ManyLanes(slots, weights(lanes))


def weights(lanes: int) -> list[int]:
    """Shares of the lanes, the top lane first: 4, 2, 1 for three."""
    return [2**exponent for exponent in reversed(range(lanes))]


class Turns:
    """Smooth weighted round robin over the lanes that have messages.

    A lane that is found empty loses the credit that it saved up: it is neither owed anything later,
    nor does it stand in the way of the others.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        self._shares = shares
        self._credit = [0] * len(shares)

    def plan(self, slots: int, lanes: Sequence[int]) -> list[int]:
        """Whose turns come next, if all of `lanes` have messages."""
        kept = list(self._credit)
        turns = []
        for _ in range(slots):
            turns.append(max(lanes, key=lambda lane: self._credit[lane] + self._shares[lane]))
            self.took(turns[-1], lanes)
        self._credit = kept
        return turns

    def took(self, lane: int, lanes: Sequence[int]) -> None:
        """`lane` had a turn, of `lanes`."""
        for each in lanes:
            self._credit[each] += self._shares[each]
        self._credit[lane] -= sum(self._shares[each] for each in lanes)

    def empty(self, lane: int) -> None:
        """`lane` had no message when it was asked."""
        self._credit[lane] = 0
