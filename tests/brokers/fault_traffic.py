"""Publishers that go on through every fault, and the account of what became of their messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dramatiq.errors import BrokerConnectionError

from brokers.nats import NatsBroker
from tests.acceptance.processes import until
from tests.brokers.fault_workers import Site, message
from tests.brokers.journal import STARTED

THREADS = 4
WINDOW_BATCH = 200
CONFIRM_MS = 60_000
PAUSE_SECONDS = 0.05
"""After an enqueue that failed."""


class Publishers:
    """Threads that enqueue each of the numbers until it is acknowledged."""

    def __init__(self, broker: NatsBroker, numbers: Sequence[int], *, window: bool) -> None:
        """`window`: a message is acknowledged when `wait_for_confirms` returns."""
        self._broker = broker
        self._window = window
        self._given_up = threading.Event()
        self.acknowledged: dict[int, float] = {}
        """When, by `time.monotonic`."""
        self.failures: list[BrokerConnectionError] = []
        self._threads = [
            threading.Thread(target=self._publish, args=(numbers[first::THREADS],))
            for first in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def await_acknowledged(self, count: int) -> None:
        """Until so many are."""
        until(lambda: len(self.acknowledged) >= count, f"{count} acknowledged")

    def join(self, seconds: float) -> None:
        """Until all are."""
        deadline = time.monotonic() + seconds
        try:
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
                assert not thread.is_alive(), f"{len(self.acknowledged)} acknowledged, no more"
        finally:
            self._given_up.set()

    def close(self) -> None:
        """End the threads after their next attempt."""
        self._given_up.set()
        for thread in self._threads:
            thread.join()

    def _publish(self, numbers: Sequence[int]) -> None:
        size = WINDOW_BATCH if self._window else 1
        for first in range(0, len(numbers), size):
            self._until_acknowledged(numbers[first : first + size])

    def _until_acknowledged(self, numbers: Sequence[int]) -> None:
        while not self._given_up.is_set():
            try:
                for number in numbers:
                    self._broker.enqueue(message("quick", number))
                self._broker.wait_for_confirms(CONFIRM_MS)
            except BrokerConnectionError as error:
                self.failures.append(error)
                self._given_up.wait(PAUSE_SECONDS)
            else:
                now = time.monotonic()
                self.acknowledged.update(dict.fromkeys(numbers, now))
                return


class Traffic:
    """Messages that publishers enqueue and workers run, while a test breaks what is between."""

    def __init__(self, site: Site, count: int, *, window: bool = False) -> None:
        self.site = site
        self.count = count
        broker = site.new_broker(confirm="window") if window else site.new_broker()
        self.broker = broker
        self.publishers = Publishers(broker, range(count), window=window)
        self._mended = 0.0

    @contextmanager
    def fault(self, after: int) -> Iterator[None]:
        """The block lasts as long as the fault does, which begins in the middle."""
        self.publishers.await_acknowledged(after)
        assert len(self.publishers.acknowledged) < self.count, "the fault comes too late"
        began = time.monotonic()
        yield
        self._mended = time.monotonic()
        print(f"the fault lasted {self._mended - began:.1f} s")

    def await_recovery(self, seconds: float) -> None:
        """An enqueue is acknowledged, and one of its messages runs."""
        acknowledged = self.publishers.acknowledged

        def both() -> bool:
            runs = self.site.journal.records(STARTED)
            return any(at > self._mended for at in list(acknowledged.values())) and any(
                run.at > self._mended for run in runs
            )

        until(both, "publishers and workers go on after the fault", seconds)
        first = min(at for at in list(acknowledged.values()) if at > self._mended)
        run = next(run for run in self.site.journal.records(STARTED) if run.at > self._mended)
        print(
            f"after the fault: first acknowledged enqueue {first - self._mended:.2f} s,"
            f" first run {run.at - self._mended:.2f} s"
        )

    def check(self, seconds: float = 60.0) -> None:
        """All was acknowledged, all ran, nothing is left, and no worker has died."""
        self.publishers.join(seconds)
        assert len(self.publishers.acknowledged) == self.count, "a publisher has failed"
        self.site.await_all_run(range(self.count), seconds)
        self.site.await_empty(seconds)
        print(
            f"{len(self.publishers.failures)} enqueues failed,"
            f" {self.site.journal.duplicates()} of {self.count} messages ran once more"
        )
        assert all(worker.alive for worker in self.site.workers)

    def close(self) -> None:
        """End the publishers."""
        self.publishers.close()
        self.broker.close()
