"""Gathers what is known of a run, past the house's own programs."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from nats.js.errors import NotFoundError

from brokers import subjects
from brokers.callbacks.queue import open_callbacks
from brokers.job_store import HISTORY, JobStore
from brokers.nats.buckets import Bucket
from brokers.nats.streams import encode
from brokers.opening import open_broker
from brokers.settings import NatsSettings
from tests.faults.story import Life, Told

TICK = re.compile(r"tick (\d+\.\d+)")
"""What steps print for as long as they live: the machine's seconds."""


class Replay:
    """A connection of its own to a NATS server, with the installation's ack wait."""

    def __init__(self, url: str, ack_wait: float) -> None:
        settings = NatsSettings(url=url, ack_wait=ack_wait)
        self._connection = settings.connect()
        self._store = JobStore(self._connection, max_age=settings.record_max_age)
        self._callbacks = open_callbacks(settings, self._connection)
        self._broker = open_broker(settings, self._connection, middleware=[])
        self._payloads = Bucket(
            self._connection, subjects.PAYLOAD_BUCKET, max_age=settings.record_max_age
        )
        for queue in (subjects.QUEUE, subjects.CALLBACK_QUEUE):
            self._broker.declare_queue(queue)

    def close(self) -> None:
        """The connection is closed."""
        self._broker.close()
        self._callbacks.close()
        self._connection.close()

    def job_ids(self) -> list[str]:
        """Of all jobs that have a record."""
        return self._store.ids()

    def history(self, job_id: str) -> dict[str, Any]:
        """Its records, as a JobStory has them."""
        found = self._store.history(job_id)
        return {
            "revisions": tuple(record for _, record in found),
            "cut": len(found) == HISTORY,
        }

    def told(self) -> Mapping[str, tuple[Told, ...]]:
        """The status stream, for each job."""
        told: dict[str, tuple[Told, ...]] = defaultdict(tuple)
        for subject, headers, data in self._stored(subjects.STATUS_STREAM):
            state = subject.rpartition(".")[2]
            attempt = int(headers[subjects.ATTEMPT_HEADER])
            told[data.decode()] += (Told(state=state, attempt=attempt),)
        return told

    def results(self) -> Mapping[str, tuple[dict[str, Any], ...]]:
        """The result stream, for each job."""
        results: dict[str, tuple[dict[str, Any], ...]] = defaultdict(tuple)
        for _, _, data in self._stored(subjects.RESULT_STREAM):
            result = json.loads(data)
            results[result["id"]] += (result,)
        return results

    def logs(self, job_id: str) -> dict[int, list[str]]:
        """The lines of each attempt that has a log."""
        lines: dict[int, list[str]] = {}
        for _, headers, data in self._stored(subjects.LOG_STREAM, subjects.logs(job_id)):
            attempt = lines.setdefault(int(headers[subjects.ATTEMPT_HEADER]), [])
            attempt += [entry["message"] for entry in json.loads(data)["logs"] or ()]
        return lines

    def dead_callbacks(self) -> frozenset[str]:
        """Ids of those that were given up."""
        return frozenset(letter.id for letter in self._callbacks.dead())

    def left(self) -> Iterator[str]:
        """What NATS still holds of jobs that are over."""
        for name, stats in self._broker.get_queue_stats().items():
            if stats.unfinished:
                yield f"{stats.unfinished} messages of the queue {name}"
        for key in self._payloads.keys():  # noqa: SIM118 - it is no mapping
            if encode("whole") in key.split("."):
                yield f"payload {key}"

    def open_callbacks(self) -> int:
        """How many wait, or are under way."""
        return self._broker.get_queue_stats()[subjects.CALLBACK_QUEUE].unfinished

    def _stored(
        self, stream: str, subject: str = ">"
    ) -> list[tuple[str, Mapping[str, str], bytes]]:
        """Subject, headers and body of every message, in order."""

        async def read() -> list[tuple[str, Mapping[str, str], bytes]]:
            found: list[tuple[str, Mapping[str, str], bytes]] = []
            sequence = 1
            with suppress(NotFoundError):
                while True:
                    message = await self._connection.jetstream.get_msg(
                        stream, sequence, subject=subject, next=True, direct=True
                    )
                    body = message.data or b""
                    found.append((str(message.subject), message.headers or {}, body))
                    sequence = int(message.seq or 0) + 1
            return found

        return self._connection.run(read())


def lives_in(logs: Mapping[int, list[str]]) -> tuple[Life, ...]:
    """When each attempt was alive, as its steps say."""
    ticks = {
        attempt: [float(tick[1]) for line in lines if (tick := TICK.fullmatch(line))]
        for attempt, lines in logs.items()
    }
    return tuple(
        Life(place=f"attempt {attempt}", begun=min(times), ended=max(times))
        for attempt, times in ticks.items()
        if times
    )
