"""What every broker promises to Dramatiq's worker: the same tests for four of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import dramatiq
import pytest
from dramatiq.middleware import Middleware, Retries, SkipMessage

from tests.brokers.contract.support import Garbled, Recorder, message_for, until

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

# --- signals


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


# --- running


def test_many_messages_run_once_each(broker, queue, start_worker, journal, vendor) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(number):
        journal.note(number)

    start_worker(broker, threads=8)
    for number in range(200):
        work.send(number)
    assert sorted(journal.wait_for(200)) == list(range(200))
    vendor.join(broker, queue)
    assert journal.stays_at(200)


def test_a_queue_that_is_declared_while_a_worker_runs_is_read(
    broker, queue, start_worker, journal
) -> None:
    start_worker(broker)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("now")

    @dramatiq.actor(broker=broker, queue_name=f"{queue}.later")
    def work_later():
        journal.note("later")

    work.send()
    work_later.send_with_options(delay=100)
    assert journal.wait_for(2) == ["now", "later"]


def test_a_worker_reads_no_other_queues_than_its_own(broker, queue, start_worker, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("mine")

    @dramatiq.actor(broker=broker, queue_name=f"{queue}-other")
    def other():
        journal.note("not mine")

    start_worker(broker, queues={queue})
    other.send()
    work.send()
    assert journal.wait_for(1) == ["mine"]
    assert journal.stays_at(1)


def test_actors_send_messages(broker, queue, start_worker, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def count_down(number):
        journal.note(number)
        if number:
            count_down.send(number - 1)

    start_worker(broker, threads=4)
    count_down.send(20)
    assert journal.wait_for(21) == list(range(20, -1, -1))


def test_a_message_for_no_actor_is_a_dead_letter(
    broker, queue, start_worker, journal, vendor
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def known():
        journal.note("ran")

    start_worker(broker)
    lost = broker.enqueue(message_for(queue))
    known.send()
    journal.wait_for(1)
    until(lambda: vendor.dead_letters(broker, queue) == [lost], "it is among the dead letters")


def test_a_worker_goes_on_after_what_cannot_be_decoded(
    broker, queue, start_worker, journal, vendor
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("ran")

    start_worker(broker)
    broker.enqueue(Garbled(queue, "work", (), {}, {}))
    work.send()
    assert journal.wait_for(1, timeout=2) == ["ran"]
    until(lambda: vendor.dead_letters(broker, queue) == [None], "it is a dead letter", timeout=2)
    broker.join(queue, timeout=2_000)


# --- pausing and stopping


def test_a_paused_worker_runs_nothing_until_it_resumes(
    broker, queue, start_worker, journal
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(number):
        journal.note(number)

    worker = start_worker(broker)
    work.send(1)
    journal.wait_for(1)
    worker.pause()
    for number in (2, 3):
        work.send(number)
    assert journal.stays_at(1)
    worker.resume()
    assert sorted(journal.wait_for(3)) == [1, 2, 3]
    assert journal.stays_at(3)


def test_what_runs_while_its_worker_pauses_runs_once(
    broker, queue, start_worker, journal, gate, vendor
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        journal.note("began")
        gate.stop_here()

    worker = start_worker(broker, threads=1)
    work.send()
    gate.await_arrivals()
    with ThreadPoolExecutor(1) as threads:
        paused = threads.submit(worker.pause)
        assert worker.consumers[queue].paused_event.wait(10)  # its consumer is closed by now
        gate.open()
        paused.result(10)
    worker.resume()
    assert journal.stays_at(1)
    vendor.join(broker, queue)


def test_what_waits_in_a_worker_that_stops_goes_to_another_one_at_once(
    open_broker, queue, start_worker, journal, gate
) -> None:
    broker = open_broker()

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(number):
        journal.note(number)
        if number == 0:
            gate.stop_here()

    for number in range(8):
        work.send(number)
    worker = start_worker(broker, threads=1)
    gate.await_arrivals()
    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(worker.stop)
        until(lambda: not worker.workers[0].running, "the worker takes nothing new")
        gate.open()
        stopped.result(10)
    assert journal.entries == [0]
    start_worker(broker)
    assert sorted(journal.wait_for(8, timeout=3)) == list(range(8))
    assert journal.stays_at(8)


def test_a_worker_that_stops_waits_for_its_actors(
    broker, queue, start_worker, journal, gate
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        gate.stop_here()
        journal.note("done")

    work.send()
    worker = start_worker(broker, threads=1)
    gate.await_arrivals()
    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(worker.stop)
        until(lambda: not worker.workers[0].running, "the worker takes nothing new")
        gate.open()
        stopped.result(10)
    assert journal.entries == ["done"]
    start_worker(broker)
    assert journal.stays_at(1)


def test_a_worker_leaves_no_thread_of_its_own(broker, queue, start_worker) -> None:
    broker.declare_queue(queue)
    worker = start_worker(broker)
    threads = {*worker.workers, *worker.consumers.values()}
    worker.stop()
    assert not threads & set(threading.enumerate())


def test_two_workers_share_a_queue(open_broker, queue, start_worker, journal) -> None:
    brokers = [open_broker(), open_broker()]
    for broker in brokers:

        @dramatiq.actor(broker=broker, queue_name=queue)
        def work(number):
            journal.note(number)

        start_worker(broker)
    for number in range(100):
        work.send(number)
    assert sorted(journal.wait_for(100)) == list(range(100))
    assert journal.stays_at(100)
