"""What is too large for a message: kept beside the queue in pieces, each under the server's limit.

<job id>.whole.<try>.<n>    the job as it was submitted, for the worker; gone when the job is over
<job id>.shown.<n>          the job without its secrets, for as long as its record

A job that is retried explicitly is stored again, beside what the end of its last try may be about
to delete.
"""

from __future__ import annotations

from brokers import subjects
from brokers.nats.buckets import PATIENCE, Bucket, Key
from brokers.nats.connection import NatsConnection
from brokers.records import JobRecord

PIECE = 512 * 1024
"""Bytes of one piece; the server takes a message of 1 MiB."""

FIRST = "first"
"""The try that a job is submitted for; later ones are named after the time they were queued at."""

Payload = tuple[str, ...]
"""Tokens of a key: what belongs to whom."""


def whole(job_id: str, try_: str = FIRST) -> Payload:
    """The job, for the worker."""
    return job_id, "whole", try_


def shown(job_id: str) -> Payload:
    """The job, for everybody."""
    return job_id, "shown"


class PayloadStore:
    """`max_age` and `patience` are in seconds. Methods raise ConnectionClosed, ConnectionFailed."""

    def __init__(
        self, connection: NatsConnection, *, max_age: float, patience: float = PATIENCE
    ) -> None:
        self._bucket = Bucket(connection, subjects.PAYLOAD_BUCKET, max_age=max_age)
        self._patience = patience

    def put(self, payload: Payload, data: bytes) -> None:
        """Store all of it; what is there already stays."""
        self._bucket.create_together(self.pieces(payload, data), patience=self._patience)

    def pieces(self, payload: Payload, data: bytes) -> list[tuple[Bucket, Key, bytes]]:
        """What is to be stored of it, where: for those who store something else along with it."""
        return [(self._bucket, (*payload, name), piece) for name, piece in _pieces(data)]

    def get(self, payload: Payload) -> bytes | None:
        """None: it was never stored, or is gone."""
        pieces: list[bytes] = []
        while True:
            key = (*payload, str(len(pieces)))
            value = self._bucket.get(key, patience=self._patience).value
            if value is None:
                return None
            more, piece = value[:1], value[1:]
            pieces.append(piece)
            if more == _LAST:
                return b"".join(pieces)

    def delete(self, payload: Payload) -> None:
        """Nothing of it stays on the server. Deleting what is not there is no error."""
        self._bucket.erase(payload, patience=self._patience)

    def forget(self, record: JobRecord) -> None:
        """Of a job that is over: what a worker would have needed for the try that has ended."""
        for try_ in (FIRST, record.queued_at):
            self.delete(whole(record.id, try_))


_MORE, _LAST = b"+", b"."


def _pieces(data: bytes) -> list[tuple[str, bytes]]:
    """Each begins with a mark that says whether another one follows."""
    starts = range(0, len(data) or 1, PIECE)
    return [
        (
            str(number),
            (_LAST if start + PIECE >= len(data) else _MORE) + data[start : start + PIECE],
        )
        for number, start in enumerate(starts)
    ]
