"""What time it is for the server: its schedules go by its own clock, which ours may differ from."""

from __future__ import annotations

import json
import time
from datetime import datetime
from math import inf
from time import monotonic

from dramatiq.errors import BrokerError

from .connection import REQUEST_SECONDS, NatsConnection

ASK_SECONDS = 10.0
"""For so long an answer is gone by."""


class ServerClock:
    """Asks for the time of the server that keeps `stream`; our own will do when nobody answers."""

    def __init__(self, connection: NatsConnection, stream: str) -> None:
        self._connection = connection
        self._subject = f"$JS.API.STREAM.INFO.{stream}"
        self._asked = -inf
        self._ahead: float | None = None
        """Of our monotonic clock."""

    def __call__(self) -> float:
        """Seconds since the epoch."""
        if monotonic() - self._asked > ASK_SECONDS:
            self._asked = monotonic()
            self._ahead = self._ask()
        return time.time() if self._ahead is None else monotonic() + self._ahead

    def _ask(self) -> float | None:
        try:
            data = self._connection.run(self._request(), REQUEST_SECONDS)
            told = datetime.fromisoformat(json.loads(data)["ts"])
        except (BrokerError, TimeoutError, KeyError, TypeError, ValueError):
            return None
        return told.timestamp() - monotonic()

    async def _request(self) -> bytes:
        answer = await self._connection.client.request(
            self._subject, b"", timeout=REQUEST_SECONDS / 2
        )
        return bytes(answer.data)
