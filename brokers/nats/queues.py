"""The queues as the server keeps them: declared, counted, emptied; and their dead letters.

All of it goes through nats-py; nothing here is on a message's way from actor to actor.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nats.js.errors
from dramatiq import Message
from dramatiq.errors import DecodeError
from nats.js import api

from .connection import REQUEST_SECONDS, NatsConnection
from .errors import JetStreamError
from .streams import (
    MINIMUM_LEVEL,
    SCHEDULES_LEVEL,
    Abilities,
    Names,
    StreamOptions,
    counting_consumer,
    ensure_stream,
    pulled_consumer,
    queue_stream,
)

PATIENCE = 10.0
"""Seconds that an operation waits for NATS to come back."""
HOLES = 50_000
"""Messages that have left the middle of the stream; the server lists them in half a megabyte."""
ASKED = 500
REASON_HEADER = "Dramatiq-Reason"
ERROR_HEADER = "Dramatiq-Error"
"""A JSON string: a header is one line."""

_PAGE = 256  # consumers that the server lists at once
_ACCOUNT = "$JS.API.INFO"
_NO_SUCH_STREAM = 10059


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Messages of one queue, over all its workers."""

    ready: int = 0
    """Waiting for a worker."""
    in_flight: int = 0
    """Delivered and not acknowledged; also what was handed back and not fetched again."""
    delayed: int = 0
    """Not due yet."""
    dead: int = 0
    """Given up, and kept for a while."""

    @property
    def unfinished(self) -> int:
        """All but the dead ones. Scale on this: it is zero when there is nothing to do."""
        return self.ready + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class LaneStats:
    """Messages of one priority of a queue, over all its workers."""

    priority: int
    ready: int = 0
    """Waiting for a worker."""
    in_flight: int = 0
    """Delivered and not acknowledged; also what was handed back and not fetched again."""
    oldest: str = ""
    """When the first of those was enqueued that no worker has had yet, as RFC 3339; empty: none."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up."""

    message: Message[Any] | None
    """None for bytes that are no message."""
    reason: str
    """Why: the last error, as `ValueError: broken`, or the limit that was reached."""
    error: str
    """The last error's traceback, its end; empty when there was none, or none that was seen."""
    data: bytes
    """As it was stored."""
    sequence: int
    """Its number in the stream."""
    since: str
    """When it was given up, in UTC, as RFC 3339."""


class Queues:
    """`lanes` are the priorities that have a lane, the highest first; `ack_wait` is in seconds.

    `declare` False is for accounts that may not create streams and consumers: then somebody else
    has. Every method raises ConnectionClosed or ConnectionFailed when NATS stays away.
    """

    def __init__(
        self,
        connection: NatsConnection,
        names: Names,
        options: StreamOptions,
        *,
        lanes: Sequence[int],
        ack_wait: float,
        declare: bool,
    ) -> None:
        self._connection = connection
        self._names = names
        self._options = options
        self._lanes = lanes
        self._ack_wait = ack_wait
        self._may_declare = declare
        self._abilities: Abilities | None = None

    # Declaring

    def abilities(self) -> Abilities:
        """What the server can do. Raises JetStreamError for one that is too old."""
        if self._abilities is None:
            level = self._connection.patiently(self._level, PATIENCE)
            if level < MINIMUM_LEVEL:
                raise JetStreamError("the NATS server is too old: 2.11 or newer is needed")
            self._abilities = Abilities(
                schedules=level >= SCHEDULES_LEVEL and self._options.max_bytes is None
            )
        return self._abilities

    async def _level(self) -> int:
        answer = await self._connection.client.request(_ACCOUNT, b"", timeout=3)
        return int(json.loads(answer.data).get("api", {}).get("level", 0))

    def declare(self, queues: Iterable[str], *, patience: float = PATIENCE) -> None:
        """Create the stream and the queues' consumers, or bring them to what is wanted."""
        abilities, queues = self.abilities(), list(queues)
        if self._may_declare:
            self._connection.patiently(lambda: self._declare(queues, abilities), patience)

    async def _declare(self, queues: list[str], abilities: Abilities) -> None:
        jetstream = self._connection.jetstream
        await ensure_stream(jetstream, queue_stream(self._names, self._options, abilities))
        configs = [config for queue in queues for config in self._consumers(queue, abilities)]
        await asyncio.gather(
            *(jetstream.add_consumer(self._names.stream, config) for config in configs)
        )

    def _consumers(self, queue: str, abilities: Abilities) -> list[api.ConsumerConfig]:
        names, wait = self._names, self._ack_wait
        configs = [
            pulled_consumer(names.consumer(queue, lane), names.lane(queue, lane), ack_wait=wait)
            for lane in self._lanes
        ]
        waiting = names.consumer(queue, "waiting"), names.waiting(queue)
        if not abilities.schedules:
            configs.append(pulled_consumer(*waiting, ack_wait=wait))
        return [
            *configs,
            counting_consumer(names.consumer(queue, "scheduled"), names.scheduled(queue, "*")),
            counting_consumer(names.consumer(queue, "dead"), names.dead(queue)),
        ]

    # Counting

    def stats(self, queues: Iterable[str]) -> dict[str, QueueStats]:
        """Of these queues. One request for each 256 consumers of the namespace."""
        infos = self._connection.patiently(self._list, PATIENCE)
        return {queue: self._stats_of(queue, infos) for queue in queues}

    async def _list(self) -> dict[str, api.ConsumerInfo]:
        infos: dict[str, api.ConsumerInfo] = {}
        full = True
        while full:
            try:
                page = await self._connection.jetstream.consumers_info(
                    self._names.stream, offset=len(infos)
                )
            except nats.js.errors.NotFoundError:  # nothing was ever enqueued
                return {}
            infos.update({info.name: info for info in page})
            full = len(page) == _PAGE
        return infos

    def _stats_of(self, queue: str, infos: dict[str, api.ConsumerInfo]) -> QueueStats:
        def count(kind: int | str) -> tuple[int, int]:
            info = infos.get(self._names.consumer(queue, kind))
            return (info.num_pending or 0, info.num_ack_pending or 0) if info else (0, 0)

        lanes = [count(lane) for lane in self._lanes]
        return QueueStats(
            ready=sum(ready for ready, _ in lanes),
            in_flight=sum(held for _, held in lanes),
            delayed=count("scheduled")[0] + sum(count("waiting")),
            dead=count("dead")[0],
        )

    def lane_stats(self, queue: str) -> list[LaneStats]:
        """The top lane first. One request more for each lane that has messages ready."""
        return self._connection.patiently(lambda: self._lane_stats(queue), PATIENCE)

    async def _lane_stats(self, queue: str) -> list[LaneStats]:
        infos = await self._list()
        lanes = [(lane, infos.get(self._names.consumer(queue, lane))) for lane in self._lanes]
        return list(await asyncio.gather(*(self._lane(queue, *lane) for lane in lanes)))

    async def _lane(self, queue: str, lane: int, info: api.ConsumerInfo | None) -> LaneStats:
        if info is None:
            return LaneStats(lane)
        delivered = info.delivered.stream_seq if info.delivered else 0
        oldest = await self._since(self._names.lane(queue, lane), delivered) if _ready(info) else ""
        return LaneStats(lane, _ready(info), info.num_ack_pending or 0, oldest)

    async def _since(self, subject: str, delivered: int) -> str:
        """When the first message behind that sequence was stored; empty: it is gone by now."""
        try:
            raw = await self._connection.jetstream.get_msg(
                self._names.stream, delivered + 1, subject=subject, next=True
            )
        except nats.js.errors.NotFoundError:
            return ""
        return str(raw.time or "")

    # Emptying

    def purge(self, queue: str) -> None:
        """Drop every message of the queue: ready, in flight, delayed and dead."""
        names = self._names
        subjects = (
            names.lanes(queue),
            names.scheduled(queue, "*"),
            names.waiting(queue),
            names.dead(queue),
        )
        self._connection.patiently(lambda: self._purge(subjects), PATIENCE)

    async def _purge(self, subjects: Iterable[str]) -> None:
        for subject in subjects:
            try:
                await self._connection.jetstream.purge_stream(self._names.stream, subject=subject)
            except nats.js.errors.NotFoundError:
                return

    # Dead letters

    def dead_letters(self, queue: str) -> list[DeadLetter]:
        """Oldest first. One request each."""
        return self._connection.patiently(lambda: self._dead_letters(queue), PATIENCE)

    async def _dead_letters(self, queue: str) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        sequence = 1
        while (letter := await self._next_dead(queue, sequence)) is not None:
            letters.append(letter)
            sequence = letter.sequence + 1
        return letters

    async def _next_dead(self, queue: str, sequence: int) -> DeadLetter | None:
        try:
            raw = await self._connection.jetstream.get_msg(
                self._names.stream, sequence, subject=self._names.dead(queue), next=True
            )
        except nats.js.errors.NotFoundError:
            return None
        return DeadLetter(
            message=_decoded(raw.data or b""),
            reason=(raw.headers or {}).get(REASON_HEADER, ""),
            error=json.loads((raw.headers or {}).get(ERROR_HEADER, '""')),
            data=raw.data or b"",
            sequence=int(raw.seq or 0),
            since=str(raw.time or ""),
        )

    # Single messages

    def remove(self, sequence: int) -> bool:
        """Delete one message of the stream; whether it was there."""

        async def attempt() -> bool:
            try:
                await self._connection.jetstream.delete_msg(self._names.stream, sequence)
            except nats.js.errors.APIError:
                if await self._has(sequence):
                    raise
                return False
            return True

        return self._connection.patiently(attempt, PATIENCE)

    def contains(self, sequence: int) -> bool:
        """Whether the stream has a message with this number."""

        return self._connection.patiently(lambda: self._has(sequence), PATIENCE)

    async def _has(self, sequence: int) -> bool:
        try:
            await self._connection.jetstream.get_msg(self._names.stream, sequence)
        except nats.js.errors.NotFoundError:
            return False
        return True

    def gone(self, sequences: Collection[int]) -> set[int]:
        """Those of these numbers that the stream does not have. Where it has more than HOLES, only
        ASKED of them are looked at, other ones each time."""
        if not sequences:
            return set()
        state = self._connection.patiently(lambda: self._state({}), PATIENCE)
        outside = {each for each in sequences if not state.first <= each <= state.last}
        inside = [each for each in sequences if each not in outside]
        if not inside or not state.holes:
            return outside
        if state.holes > HOLES:
            some = random.sample(inside, min(ASKED, len(inside)))
            return outside | {each for each in some if not self.contains(each)}
        details = {"deleted_details": True}
        state = self._connection.patiently(lambda: self._state(details), PATIENCE)
        return outside | state.deleted.intersection(inside)

    async def _state(self, wanted: Mapping[str, object]) -> _State:
        subject = f"$JS.API.STREAM.INFO.{self._names.stream}"
        answer = await self._connection.client.request(
            subject, json.dumps(wanted).encode(), timeout=REQUEST_SECONDS
        )
        info: dict[str, Any] = json.loads(answer.data)
        if error := info.get("error"):
            if error.get("err_code") == _NO_SUCH_STREAM:
                return _State(first=1, last=0)
            raise JetStreamError(str(error.get("description", "")))
        state = info["state"]
        return _State(
            first=int(state["first_seq"]),
            last=int(state["last_seq"]),
            holes=int(state.get("num_deleted", 0)),
            deleted=frozenset(state.get("deleted") or ()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What the stream holds: the numbers from first to last, but for its holes."""

    first: int
    last: int
    holes: int = 0
    deleted: frozenset[int] = frozenset()
    """The holes, when they were asked for."""


def _ready(info: api.ConsumerInfo) -> int:
    return info.num_pending or 0


def _decoded(data: bytes) -> Message[Any] | None:
    try:
        return Message.decode(data)
    except DecodeError:
        return None
