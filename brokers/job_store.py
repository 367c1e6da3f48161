"""The records of all jobs, changed only by compare-and-set along `brokers.transitions`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from brokers import subjects, transitions
from brokers.nats.buckets import PATIENCE, Bucket, Key
from brokers.nats.connection import NatsConnection
from brokers.nats.errors import RevisionConflict
from brokers.records import JobRecord, StepRecord, utc_now
from brokers.transitions import HandBack
from executors.errors import AttemptLost
from executors.job import Job, JobState

FOREVER = math.inf
HISTORY = 64
"""Revisions of a record that are kept."""
FRESH_SECONDS = 1.0
"""For so long after it was seen to hold, a lease is taken to hold: less than any ack wait."""


@dataclass(slots=True)
class Lease:
    """A worker's hold on a job: the attempt that it runs, and the record as it last wrote it.

    It lasts for as long as the queue's message is kept alive by heartbeats, and is over when the
    record names another attempt, or a final state.
    """

    record: JobRecord
    revision: int
    held_at: float = field(default_factory=monotonic)
    """When it was last sure to hold, by this machine's clock."""

    @property
    def job_id(self) -> str:
        """Of the job."""
        return self.record.id

    @property
    def attempt(self) -> int:
        """The attempt's number."""
        return self.record.attempt


def _readily(record: JobRecord) -> None:
    """Whoever ran the job is gone."""


class JobStore:
    """All records. `patience` is how long, in seconds, it waits for NATS to come back.

    `describe` makes the record of a job that a worker claims before it was recorded.
    """

    def __init__(
        self,
        connection: NatsConnection,
        *,
        max_age: float,
        patience: float = PATIENCE,
        describe: Callable[[Job], JobRecord] = JobRecord.of,
    ) -> None:
        self._describe = describe
        self._bucket = Bucket(connection, subjects.RECORD_BUCKET, max_age=max_age, history=HISTORY)
        self._patience = patience

    # Reading

    def get(self, job_id: str) -> JobRecord | None:
        """None for a job that is not known (any more)."""
        return self._read(job_id)[0]

    def get_with_revision(self, job_id: str) -> tuple[JobRecord | None, int]:
        """The record, and the number of its last change; 0 for a job that was never known."""
        return self._read(job_id)

    def history(self, job_id: str) -> list[tuple[int, JobRecord]]:
        """Every change of the record that is still kept, in order, with its revision."""
        entries = self._bucket.history(job_id, patience=self._patience)
        return [
            (entry.revision, _decoded(entry.value)) for entry in entries if entry.value is not None
        ]

    def ids(self) -> list[str]:
        """Of every job with a record."""
        return self._bucket.keys()

    def last_revision(self) -> int:
        """Of any record's last change."""
        return self._bucket.patiently(self._bucket.last_revision, self._patience)

    # For those who submit, stop and retry

    def create(self, record: JobRecord) -> None:
        """Store the record of a new job; the one that a quick worker has made stays."""
        try:
            self._put(record, expected=0)
        except RevisionConflict:
            return

    def create_many(
        self, records: Sequence[JobRecord], beside: Sequence[tuple[Bucket, Key, bytes]] = ()
    ) -> None:
        """`create` for many, in far less time, and whatever else is to be stored with them."""
        items = [(self._bucket, record.id, _encoded(record)) for record in records]
        self._bucket.create_together([*beside, *items], patience=self._patience)

    def withdraw(self, record: JobRecord, reason: str) -> JobRecord | None:
        """Fail a job that was refused, whether it reached the queue or not; None: it runs."""
        return self._change(
            record.id,
            lambda there: transitions.withdrawn(there, record, reason, now=utc_now()),
        )

    def stop(self, job_id: str, reason: str) -> JobRecord | None:
        """Nobody is to run the job any more; None: it is over, or not known."""
        return self._change(job_id, lambda there: transitions.stopped(there, reason, now=utc_now()))

    def retry(self, job_id: str) -> JobRecord | None:
        """A job that is over waits again; None: it is not over, or not known."""
        return self._change(job_id, lambda there: transitions.retried(there, now=utc_now()))

    def abandon(self, seen: JobRecord, reason: str) -> JobRecord | None:
        """Fail a job that nobody will run any more; None: something has happened to it since."""
        return self._change(
            seen.id, lambda there: transitions.abandoned(there, seen, reason, now=utc_now())
        )

    def queued(self, record: JobRecord, queue_seq: int) -> None:
        """Note the message that asks for another try, unless somebody was faster to take it."""

        def note(there: JobRecord | None) -> JobRecord | None:
            return transitions.noted(there, record, queue_seq)

        self._change(record.id, note)

    # For workers

    def claim(
        self,
        job: Job,
        worker: str,
        *,
        queue_seq: int = 0,
        take_over: Callable[[JobRecord], None] = _readily,
    ) -> Lease | None:
        """Begin the next attempt of the job; None when it is over already, or was retried since and
        has a later message.

        `take_over` is called with the record of an attempt that has not ended, and may raise.
        """

        def begin(there: JobRecord | None) -> JobRecord | None:
            record = there or self._describe(job)
            if record.state is JobState.RUNNING:
                take_over(record)
            return transitions.claimed(record, worker, queue_seq=queue_seq, now=utc_now())

        return self._lease(job.id, begin)

    def progress(self, lease: Lease, steps: Sequence[StepRecord]) -> None:
        """Tell how far the attempt has come. Raises AttemptLost."""
        self._hold(
            lease,
            lambda there: transitions.progressed(there, lease.attempt, steps, now=utc_now()),
        )

    def finish(
        self, lease: Lease, state: JobState, reason: str, steps: Sequence[StepRecord]
    ) -> JobRecord:
        """End the job. Raises AttemptLost when the attempt is not the job's current one."""
        self._hold(
            lease,
            lambda there: transitions.finished(
                there, lease.attempt, state, reason, steps, now=utc_now()
            ),
        )
        return lease.record

    def give_back(self, lease: Lease, why: HandBack, reason: str = "") -> JobRecord:
        """The attempt ended without an outcome: the job waits again. Raises AttemptLost."""
        self._hold(
            lease,
            lambda there: transitions.handed_back(
                there, lease.attempt, why, reason=reason, now=utc_now()
            ),
        )
        return lease.record

    def is_current(self, lease: Lease) -> bool:
        """Whether the lease still holds."""
        try:
            transitions.current(self.get(lease.job_id), lease.attempt)
        except AttemptLost:
            return False
        return True

    def confirm(self, lease: Lease) -> None:
        """Before something is done that cannot be undone. Raises AttemptLost unless it still holds.

        A process that stood still, or had to wait for long, may have lost it meanwhile.
        """
        asked = monotonic()
        if asked - lease.held_at > FRESH_SECONDS:
            transitions.current(self.get(lease.job_id), lease.attempt)
            lease.held_at = asked

    def _hold(self, lease: Lease, change: Callable[[JobRecord | None], JobRecord]) -> None:
        """Change what is held, without asking first what it is."""
        changed, revision = change(lease.record), lease.revision
        while True:
            asked = monotonic()
            try:
                lease.revision = self._put(changed, expected=revision)
            except RevisionConflict:
                there, revision = self._read(lease.job_id)
                changed = change(there)
                continue
            lease.record, lease.held_at = changed, asked
            return

    def _lease(
        self, job_id: str, change: Callable[[JobRecord | None], JobRecord | None]
    ) -> Lease | None:
        while True:
            record, revision = self._read(job_id)
            changed = change(record)
            if changed is None:
                return None
            asked = monotonic()
            try:
                return Lease(changed, self._put(changed, expected=revision), asked)
            except RevisionConflict:
                continue

    def _change(
        self, job_id: str, change: Callable[[JobRecord | None], JobRecord | None]
    ) -> JobRecord | None:
        lease = self._lease(job_id, change)
        return None if lease is None else lease.record

    def _read(self, job_id: str) -> tuple[JobRecord | None, int]:
        entry = self._bucket.get(job_id, patience=self._patience)
        if entry.value is None:
            return None, entry.revision
        return _decoded(entry.value), entry.revision

    def _put(self, record: JobRecord, *, expected: int) -> int:
        return self._bucket.put(
            record.id, _encoded(record), expected=expected, patience=self._patience
        )

    # Watching

    @property
    def stream(self) -> str:
        """Which keeps the records."""
        return self._bucket.stream

    def subject(self, job_id: str) -> str:
        """Where changes of the record are published, as its JSON."""
        return self._bucket.subject(job_id)


def _encoded(record: JobRecord) -> bytes:
    return json.dumps(record.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()


def _decoded(value: bytes) -> JobRecord:
    return JobRecord.from_dict(json.loads(value))
