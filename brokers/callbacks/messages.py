"""What is to be told of a job, as it travels: facts alone, no address and no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol

from dramatiq import Message

from brokers import subjects
from executors.job import JobState

FRESH_LANE, RETRY_LANE = 2, 0
"""What is told for the first time goes before what has failed already."""


class CallbackKind(StrEnum):
    """What a receiver gets."""

    LOGS = "logs"
    STATUS = "status"


class Told(Protocol):
    """What a callback needs to know of a job's record."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> JobState: ...
    @property
    def reason(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def queued_at(self) -> str: ...
    @property
    def started_at(self) -> str: ...
    @property
    def finished_at(self) -> str: ...
    @property
    def callbacks(self) -> bool:
        """Whether anybody wants to be called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """One thing to be told to one receiver."""

    kind: CallbackKind
    job_id: str
    name: str
    state: JobState
    reason: str
    attempt: int
    queued_at: str
    started_at: str
    finished_at: str
    told_at: str
    """When it was put into the outbox; of one job, what is told later has a later time."""

    @classmethod
    def of(cls, kind: CallbackKind, record: Told, told_at: str) -> Callback:
        """What the record says at this moment."""
        return cls(
            kind=kind,
            job_id=record.id,
            name=record.name,
            state=record.state,
            reason=record.reason,
            attempt=record.attempt,
            queued_at=record.queued_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            told_at=told_at,
        )

    @property
    def id(self) -> str:
        """The same however often it is told. Letters, digits and dashes."""
        return self.id_as(self.kind)

    def id_as(self, kind: CallbackKind) -> str:
        """The id of the callback of this kind that tells of the same."""
        return f"{self.job_id}-{self.attempt}-{kind}-{self.state}-{re.sub('[^0-9]', '', self.when)}"

    @property
    def when(self) -> str:
        """The time at which the job entered the state."""
        if self.state.final:
            return self.finished_at
        return self.started_at if self.state is JobState.RUNNING else self.queued_at

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Callback:
        """Fields that this version does not know are left out. Raises TypeError, KeyError,
        ValueError."""
        known = {each.name: data[each.name] for each in fields(cls)}
        kind, state = CallbackKind(known.pop("kind")), JobState(known.pop("state"))
        return cls(kind=kind, state=state, **known)

    def message(self) -> Message[None]:
        """For the queue, to be told for the first time."""
        return Message(
            queue_name=subjects.CALLBACK_QUEUE,
            actor_name=subjects.CALLBACK_ACTOR,
            args=(asdict(self),),
            kwargs={},
            options={"broker_priority": FRESH_LANE},
            message_id=self.id,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One try to tell it."""

    callback: Callback
    url: str = field(repr=False)
    number: int
    """Of this try, from 1; after a replay it begins anew."""


class Verdict(StrEnum):
    """What becomes of a callback after a try."""

    DELIVERED = "delivered"
    AGAIN = "again"
    NEVER = "never"
    """It becomes a dead letter at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a try ended. `reason` names no secret and no more of the URL than its host."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadCallback:
    """One that was given up."""

    id: str
    callback: Callback | None
    """None for bytes that are no callback."""
    reason: str
    since: str
    """When it was given up, in UTC, as RFC 3339."""
