"""Words between processes that nothing stores: hints, and questions to one worker.

A hint says that a job's record has changed: who runs the job looks at the record. Nobody relies on
hearing it. A question is answered by the worker itself, or by nobody when it is gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from brokers import subjects
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import ConnectionClosed, ConnectionFailed

ANSWER_SECONDS = 1.0
"""How long a worker may take to answer before it counts as gone."""
REJOIN_SECONDS = 5.0
"""After NATS was away, its clients come back within this time, each when it tries again. Until then
a worker that does not answer may be one that lives."""


class Control:
    """One process's ear and mouth."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._rejoined = -math.inf
        connection.on_reconnect(self._note_reconnect)

    def _note_reconnect(self) -> None:
        self._rejoined = monotonic()

    def hint(self, job_id: str) -> None:
        """Somebody else has changed the job's record. Never fails."""
        with suppress(ConnectionClosed, ConnectionFailed):
            self._connection.run(self._publish(job_id), ANSWER_SECONDS)

    async def _publish(self, job_id: str) -> None:
        client = self._connection.client
        if client.is_connected:
            await client.publish(subjects.CONTROL_SUBJECT, job_id.encode())
            await client.flush()

    def holds(self, worker: str, job_id: str, attempt: int) -> bool:
        """Whether that worker is alive and runs this attempt of the job.

        One that does not answer counts as gone, except when NATS has just come back. Raises
        ConnectionClosed, ConnectionFailed when there is nobody to ask through.
        """
        question = json.dumps({"job_id": job_id, "attempt": attempt}).encode()
        answer = self._connection.run(self._ask(worker, question))
        if answer is None:
            return monotonic() - self._rejoined < REJOIN_SECONDS
        return answer

    async def _ask(self, worker: str, question: bytes) -> bool | None:
        """None: it does not answer."""
        client = self._connection.client
        if not client.is_connected:  # its silence would be ours
            raise ConnectionClosed("NATS is away")
        try:
            answer = await client.request(subjects.worker(worker), question, timeout=ANSWER_SECONDS)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return None
        return bool(json.loads(answer.data)["holds"])

    def listen(
        self, worker: str, hinted: Callable[[str], None], holds: Callable[[str, int], bool]
    ) -> None:
        """From now on; both are called on the connection's loop, and must not block.

        A reconnect counts as a hint about everything: `hinted("")`. Raises ConnectionFailed.
        """
        self._connection.run(self._subscribe(worker, hinted, holds))
        self._connection.on_reconnect(lambda: hinted(""))

    async def _subscribe(
        self, worker: str, hinted: Callable[[str], None], holds: Callable[[str, int], bool]
    ) -> None:
        async def hear(message: Msg) -> None:
            hinted(message.data.decode(errors="replace"))

        async def answer(message: Msg) -> None:
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                question: dict[str, Any] = json.loads(message.data)
                held = holds(str(question["job_id"]), int(question["attempt"]))
                await message.respond(json.dumps({"holds": held}).encode())

        client = self._connection.client
        await client.subscribe(subjects.CONTROL_SUBJECT, cb=hear)
        await client.subscribe(subjects.worker(worker), cb=answer)
        await client.flush()
