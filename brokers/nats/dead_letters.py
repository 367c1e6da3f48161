"""Messages that were given up: put aside with a reason, and given another chance."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq import Message
from dramatiq.common import current_millis

from .errors import MessageTooLarge
from .messages import delivery_of
from .protocol import Arrival
from .publisher import Publication, Publisher
from .queues import ERROR_HEADER, REASON_HEADER, DeadLetter, Queues
from .streams import Names

REASON_CHARS = 500
ERROR_CHARS = 2_000
PATIENCE = 10.0
"""Seconds that a message waits for NATS to come back before it stays where it is."""

_FORGOTTEN = ("retries", "traceback", "eta", "requeue_timestamp")


class DeadLetters:
    """`ttl` is how long they are kept, in seconds; `lane_of` finds the lane of one that is revived.

    Each move is a copy with an id of its own and then the removal of the original, so a move that
    was broken off can be made again.
    """

    def __init__(
        self,
        publisher: Publisher,
        queues: Queues,
        names: Names,
        *,
        ttl: float,
        lane_of: Callable[[Message[Any]], int],
    ) -> None:
        self._publisher = publisher
        self._queues = queues
        self._names = names
        self._ttl = ttl
        self._lane_of = lane_of

    def bury(self, queue_name: str, arrival: Arrival, reason: str, error: str) -> None:
        """Put a copy of a delivered message among them, with the reason it is there."""
        headers = {
            "Nats-TTL": f"{max(1, math.ceil(self._ttl))}s",
            REASON_HEADER: " ".join(reason.split())[:REASON_CHARS],
        }
        told = {ERROR_HEADER: json.dumps(error[-ERROR_CHARS:])} if error else {}
        message_id = f"dead-{self._names.stream}-{delivery_of(arrival.reply).sequence}"
        subject = self._names.dead(queue_name)

        def publish(headers: dict[str, str]) -> None:
            publication = Publication.of(subject, headers, arrival.data, message_id)
            self._publisher.publish(publication, PATIENCE)

        try:
            publish({**headers, **told})
        except MessageTooLarge:  # the message alone nearly fills what the server takes
            publish(headers)

    def of(self, queue_name: str) -> list[DeadLetter]:
        """Oldest first."""
        return self._queues.dead_letters(queue_name)

    def requeue(self, queue_name: str, message_ids: Iterable[str] | None) -> int:
        """All, or those with these ids; returns how many. Bytes that are no message stay."""
        wanted = None if message_ids is None else set(message_ids)
        chosen = [
            (letter.message, letter.sequence)
            for letter in self.of(queue_name)
            if letter.message is not None
            and (wanted is None or letter.message.message_id in wanted)
        ]
        for message, sequence in chosen:
            self._revive(queue_name, message, sequence)
        return len(chosen)

    def _revive(self, queue_name: str, message: Message[Any], sequence: int) -> None:
        options = {key: value for key, value in message.options.items() if key not in _FORGOTTEN}
        fresh = dataclasses.replace(
            message, queue_name=queue_name, options=options, message_timestamp=current_millis()
        )
        subject = self._names.lane(queue_name, self._lane_of(fresh))
        message_id = f"revived-{self._names.stream}-{sequence}"
        self._publisher.publish(Publication.of(subject, {}, fresh.encode(), message_id), PATIENCE)
        self._queues.remove(sequence)
