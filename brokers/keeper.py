"""Ends jobs that nobody would ever run: their records wait, but the queue has no message for them.

That happens when a process dies between a retry's record and its message, or when somebody clears
the queue behind everybody's back. One process looks, every KEEP_SECONDS. A job is given up when its
record has not changed between two looks and its message was missing at both, unless a worker says
that it runs the job.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from dramatiq.errors import BrokerError

from brokers.control import Control
from brokers.duties import Duty
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.nats import NatsBroker
from brokers.payloads import PayloadStore
from brokers.record_feed import Change, RecordFeed
from brokers.records import JobRecord, utc_at
from executors.job import JobState

KEEP_SECONDS = 60.0
READ_SECONDS = 5.0
"""How long the stream of the records may be silent while it is read."""
TOLD_SECONDS = 900.0
"""How long ago a job may have been given up whose end a new keeper tells again."""
GONE = "its message is gone from the queue"
NEVER_QUEUED = "it was to be retried, but never got back on the queue"

log = logging.getLogger(__name__)


class OpenJob(NamedTuple):
    """What is remembered of a job that is not over."""

    sequence: int
    """Of its record's last change."""
    queue_seq: int
    """Of its message; 0: not known."""
    job_id: str


class OpenJobs:
    """All jobs that are not over, as far as the stream of their records was read."""

    def __init__(self, feed: RecordFeed) -> None:
        self._feed = feed
        self._jobs: dict[str, OpenJob] = {}
        self.given_up: list[JobRecord] = []
        """Those that were given up and were met when the stream was read from its beginning."""
        self._created = ""
        self._read = 0

    def read_on(self) -> dict[str, OpenJob]:
        """Read to the end; those that were open before already, and have not changed since.

        Raises ConnectionClosed, ConnectionFailed; NobodyAnswers when there is no stream.
        """
        state = self._feed.state()
        if state.created != self._created:
            self._created, self._read, self._jobs, self.given_up = state.created, 0, {}, []
        before = self._read
        if state.last > before:
            with self._feed.tail(before) as tail:
                left = tail.pending
                while left > 0:
                    changes = tail.next(READ_SECONDS)
                    left -= len(changes)
                    self._note_all(changes)
        self._read = max(self._read, state.last)
        return {key: job for key, job in self._jobs.items() if job.sequence <= before}

    def _note_all(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._read = max(self._read, change.sequence)
            data = json.loads(change.value) if change.value else None
            if data is not None and not JobState(data["state"]).final:
                self._jobs[change.key] = OpenJob(
                    change.sequence, data.get("queue_seq", 0), data["id"]
                )
                continue
            self._jobs.pop(change.key, None)
            if data is not None and data.get("reason") in (GONE, NEVER_QUEUED):
                self.given_up.append(JobRecord.from_dict(data))


class Keeper:
    """Has a thread of its own from `start` on. `name` is the worker's."""

    def __init__(
        self,
        store: JobStore,
        broker: NatsBroker,
        events: Events,
        payloads: PayloadStore,
        *,
        name: str,
        every: float = KEEP_SECONDS,
    ) -> None:
        """`every`: seconds between two looks."""
        connection = broker.connection
        self._store = store
        self._broker = broker
        self._events = events
        self._payloads = payloads
        self._control = Control(connection)
        self._feed = RecordFeed(connection, store.stream)
        self._duty = Duty(connection, "keeper", name, seconds=2.5 * every)
        self._every = every
        self._open = OpenJobs(self._feed)
        self._missing: dict[str, OpenJob] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look now and then, if no other process does."""
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join(READ_SECONDS)
        self._feed.close()
        self._duty.close()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                if self._duty.mine():
                    self.look()
                else:
                    self._missing = {}
            except BrokerError as error:
                log.debug("nobody looks for jobs that are lost at the moment: %r", error)
            except Exception:
                log.exception("jobs that are lost could not be looked for")

    def look(self) -> None:
        """Give up what was missing at the last look and is missing still."""
        waiting = self._open.read_on()
        self._tell_again()
        gone = self._broker.gone({job.queue_seq for job in waiting.values() if job.queue_seq})
        missing = {
            key: job for key, job in waiting.items() if not job.queue_seq or job.queue_seq in gone
        }
        for key, job in missing.items():
            if self._missing.get(key) == job and not self._stopped.is_set():
                self._judge(job)
        self._missing = missing

    def _tell_again(self) -> None:
        """Who gave them up may have died before it could tell."""
        recent = utc_at(time.time() - TOLD_SECONDS)
        while self._open.given_up:
            if (record := self._open.given_up.pop()).finished_at >= recent:
                self.end(record)

    def _judge(self, job: OpenJob) -> None:
        record, revision = self._store.get_with_revision(job.job_id)
        if record is None or revision != job.sequence or self._runs(record):
            return
        abandoned = self._store.abandon(record, GONE if job.queue_seq else NEVER_QUEUED)
        if abandoned is not None:
            log.warning("a job is given up: %s", abandoned.reason, extra={"job_id": record.id})
            self.end(abandoned)

    def _runs(self, record: JobRecord) -> bool:
        """It will end without a message as well as with one."""
        return record.state is JobState.RUNNING and self._control.holds(
            record.worker, record.id, record.attempt
        )

    def end(self, record: JobRecord) -> None:
        """Tell the end, and remove what was kept for a worker."""
        self._events.ended(record)
        self._payloads.forget(record)
