"""What every broker promises to Dramatiq's worker: the same tests for four of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import dramatiq

from tests.brokers.contract.support import Garbled, message_for, until

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
