"""From a message, and when it is to run, to what travels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dramatiq import Actor, Message
from dramatiq.common import current_millis, dq_name

from .forks import Ids
from .publisher import Publication
from .streams import Names

SCHEDULE_MIN_MS = 1_000
"""A shorter delay travels as `eta` on the lane: the server's schedules are no finer than 250 ms."""


class Envelopes:
    """`actors` knows the priority of messages that name none. `schedules` says whether the server
    delays messages itself, `server_time` what time it has then; delays are in milliseconds."""

    def __init__(
        self,
        names: Names,
        ids: Ids,
        actors: Mapping[str, Actor[Any, Any]],
        *,
        max_priority: int,
        schedules: Callable[[], bool],
        server_time: Callable[[], float],
    ) -> None:
        self._names = names
        self._ids = ids
        self._actors = actors
        self._max_priority = max_priority
        self._schedules = schedules
        self._server_time = server_time

    def with_eta(self, message: Message[Any], queue_name: str, delay: float | None) -> Message[Any]:
        """One that the worker is to delay says until when."""
        if delay is None or delay <= 0:
            return message if isinstance(message, Message) else message.copy()
        eta = {"eta": current_millis() + int(delay)}
        if delay < SCHEDULE_MIN_MS:
            return message.copy(options=eta)
        if self._schedules():
            return message.copy()
        return message.copy(queue_name=dq_name(queue_name), options=eta)

    def publication(
        self, message: Message[Any], queue_name: str, delay: float | None, message_id: str
    ) -> Publication:
        """Of a message that `with_eta` has returned."""
        subject, headers = self._names.lane(queue_name, self.lane_of(message)), {}
        if message.queue_name != queue_name:
            subject = self._names.waiting(queue_name)
        elif delay is not None and delay >= SCHEDULE_MIN_MS:
            headers = {
                "Nats-Schedule": f"@at {_rfc3339(self._server_time() + delay / 1000)}",
                "Nats-Schedule-Target": subject,
            }
            subject = self._names.scheduled(queue_name, self._ids.next())
        return Publication.of(subject, headers, message.encode(), message_id)

    def lane_of(self, message: Message[Any]) -> int:
        """The priority whose lane it goes to."""
        priority = message.options.get("broker_priority")
        if priority is None and message.actor_name in self._actors:
            priority = self._actors[message.actor_name].options.get("broker_priority")
        return max(0, min(int(priority or 0), self._max_priority))


def _rfc3339(timestamp: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(timestamp))
    return f"{whole}.{int(timestamp % 1 * 1000):03d}Z"
