"""What is known of a run when it is over: the material of the checker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from brokers.records import JobRecord


class Answer(StrEnum):
    """What the one who submitted a job was told."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NONE = "none"
    """The connection broke: the job may be there or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One message of the status stream, in its order."""

    state: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """Processes of the job were seen alive, all in one place; times are in seconds."""

    place: str
    begun: float
    ended: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One request that the receiver got, and the status that it answered."""

    id: str
    kind: str
    """`logs` or `status`."""
    state: str
    attempt: int
    answered: int
    body: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStory:
    """All that is known of one job."""

    job_id: str
    answer: Answer = Answer.ACCEPTED
    wanted: frozenset[str] = frozenset()
    """Kinds of callbacks."""
    retried: int = 0
    """How often somebody asked for the job again once it was over."""
    revisions: tuple[JobRecord, ...] = ()
    cut: bool = False
    """Whether the oldest revisions are not kept any more."""
    told: tuple[Told, ...] = ()
    results: tuple[Mapping[str, Any], ...] = ()
    attempts_with_logs: frozenset[int] = frozenset()
    lives: tuple[tuple[Life, ...], ...] = ()
    """As each of several witnesses saw them: their clocks are their own."""
    delivered: tuple[Delivery, ...] = ()
    dead: frozenset[str] = frozenset()
    """Ids of callbacks that were given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """A whole run. `left` names what is still on the machine or in NATS."""

    jobs: tuple[JobStory, ...] = ()
    left: tuple[str, ...] = ()
