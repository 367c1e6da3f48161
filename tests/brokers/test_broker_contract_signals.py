"""The signals that a worker's middleware gets on every broker: the same tests for four of them."""

from __future__ import annotations

import dramatiq
import pytest
from dramatiq.middleware import Middleware, Retries, SkipMessage

from tests.brokers.contract.support import Recorder

SENDING = ("before_enqueue", "after_enqueue")
PROCESSING = ("before_process_message", "after_process_message", "after_skip_message")
VERDICTS = ("before_ack", "after_ack", "before_nack", "after_nack")
OF_A_MESSAGE = (*SENDING, "before_delay_message", *PROCESSING, *VERDICTS)
OF_A_WORKER = (
    "before_worker_boot",
    "after_worker_boot",
    "after_consumer_thread_boot",
    "after_worker_thread_boot",
    "before_consumer_thread_shutdown",
    "before_worker_thread_shutdown",
    "before_worker_shutdown",
    "after_worker_shutdown",
)


def test_a_message_that_succeeds_gives_its_signals_in_order(
    open_broker, queue, start_worker, journal
) -> None:
    broker = open_broker(Recorder(journal, *OF_A_MESSAGE))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("work")

    work.send()
    start_worker(broker)
    assert journal.wait_until(lambda entries: "after_ack" in entries) == [
        *SENDING,
        "before_process_message",
        "work",
        "after_process_message",
        "before_ack",
        "after_ack",
    ]


def test_a_message_that_fails_gives_its_signals_in_order(
    open_broker, queue, start_worker, journal
) -> None:
    broker = open_broker(Retries(max_retries=0), Recorder(journal, *OF_A_MESSAGE))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        raise ValueError("broken")

    work.send()
    start_worker(broker)
    assert journal.wait_until(lambda entries: "after_nack" in entries) == [
        *SENDING,
        "before_process_message",
        "after_process_message",
        "before_nack",
        "after_nack",
    ]


@pytest.mark.parametrize("fail", [False, True])
def test_a_message_that_is_skipped_gives_its_signals_in_order(
    open_broker, queue, start_worker, journal, fail
) -> None:
    class Skipping(Middleware):
        def before_process_message(self, broker, message):
            if fail:
                message.fail()
            raise SkipMessage("not today")

    broker = open_broker(Recorder(journal, *OF_A_MESSAGE), Skipping())

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("work")

    work.send()
    start_worker(broker)
    last = "nack" if fail else "ack"
    assert journal.wait_until(lambda entries: f"after_{last}" in entries) == [
        *SENDING,
        "before_process_message",
        "after_skip_message",
        f"before_{last}",
        f"after_{last}",
    ]


def test_a_delayed_message_gives_its_signals_in_order(
    open_broker, queue, start_worker, journal
) -> None:
    """Between the two ends, a worker may have taken it, waited, and sent it anew."""
    broker = open_broker(Recorder(journal, *OF_A_MESSAGE))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("work")

    work.send_with_options(delay=300)
    start_worker(broker)
    ending = ["before_process_message", "work", "after_process_message"]
    entries = journal.wait_until(
        lambda entries: "work" in entries and entries.count("after_ack") == 1 + anew(entries)
    )
    assert entries[:2] == [*SENDING]
    assert [entry for entry in entries if entry in ending] == ending
    assert entries.index("before_process_message") > entries.index("after_enqueue")


def anew(entries) -> int:
    """How often a worker has delayed the message."""
    return entries.count("before_delay_message")


def test_a_worker_gives_its_signals_in_order(open_broker, queue, start_worker, journal) -> None:
    broker = open_broker(Recorder(journal, *OF_A_WORKER))
    broker.declare_queue(queue)
    start_worker(broker, threads=2).stop()
    consumers = 1 + len(broker.get_declared_delay_queues())
    entries = journal.entries
    assert entries[0] == "before_worker_boot"
    assert entries[-1] == "after_worker_shutdown"
    assert [entries.count(signal) for signal in OF_A_WORKER] == [
        *(1, 1, consumers, 2),
        *(consumers, 2, 1, 1),
    ]
