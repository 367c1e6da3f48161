"""Results, pipelines and groups on every broker: the same tests for four of them."""

from __future__ import annotations

from functools import partial

import dramatiq
import pytest
from dramatiq import group, pipeline
from dramatiq.middleware import GroupCallbacks, Pipelines, Retries, SkipMessage
from dramatiq.middleware.middleware import Middleware
from dramatiq.results import ResultFailure, ResultMissing, Results, ResultTimeout

TIMEOUT_MS = 10_000


@pytest.fixture
def broker(open_broker, results, limits):
    return open_broker(
        GroupCallbacks(limits),
        Pipelines(),
        Retries(max_retries=0),
        Results(backend=results, store_results=True),
    )


@pytest.fixture
def get(results):
    """Waits for the result of a message."""
    return partial(results.get_result, block=True, timeout=TIMEOUT_MS)


@pytest.fixture
def add(broker, queue):
    @dramatiq.actor(broker=broker, queue_name=queue)
    def add(one, other):
        return one + other

    return add


# --- results


@pytest.mark.parametrize("value", [42, None, "", {"deep": ["ümläut", None, 1.5]}])
def test_a_result_is_what_the_actor_returned(broker, queue, start_worker, get, value) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        return value

    start_worker(broker)
    assert get(work.send()) == value


def test_an_error_is_a_result_too(broker, queue, start_worker, get) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def work():
        raise ValueError("broken")

    start_worker(broker)
    with pytest.raises(ResultFailure, match="ValueError: broken"):
        get(work.send())


def test_a_delayed_message_has_its_result(broker, start_worker, add, get) -> None:
    start_worker(broker)
    assert get(add.send_with_options(args=(1, 2), delay=200)) == 3


def test_a_message_that_has_not_run_has_no_result(results, add) -> None:
    sent = add.send(1, 2)
    with pytest.raises(ResultMissing):
        sent.get_result(backend=results)
    with pytest.raises(ResultTimeout):
        sent.get_result(backend=results, block=True, timeout=1_000)


def test_a_message_that_is_skipped_has_nothing_as_its_result(
    broker, start_worker, add, get
) -> None:
    class Skipping(Middleware):
        def before_process_message(self, broker, message):
            raise SkipMessage("not today")

    broker.add_middleware(Skipping())
    start_worker(broker)
    assert get(add.send(1, 2)) is None


# --- pipelines


def test_a_pipeline_hands_each_result_to_the_next_actor(broker, start_worker, add) -> None:
    start_worker(broker)
    pipe = pipeline([add.message(1, 2), add.message(3), add.message(4)], broker=broker).run()
    assert pipe.get_result(block=True, timeout=TIMEOUT_MS) == 10
    assert list(pipe.get_results(block=True, timeout=TIMEOUT_MS)) == [3, 6, 10]


def test_a_step_of_a_pipeline_can_ignore_the_result_before_it(broker, start_worker, add) -> None:
    start_worker(broker)
    alone = add.message_with_options(args=(5, 6), pipe_ignore=True)
    pipe = pipeline([add.message(1, 2), alone], broker=broker).run()
    assert pipe.get_result(block=True, timeout=TIMEOUT_MS) == 11


def test_a_pipeline_can_be_delayed(broker, start_worker, add) -> None:
    start_worker(broker)
    late = add.message_with_options(args=(4,), delay=100)
    pipe = pipeline([add.message(1, 2), late], broker=broker).run(delay=100)
    assert pipe.get_result(block=True, timeout=TIMEOUT_MS) == 7


def test_a_pipeline_ends_where_a_step_fails(broker, queue, start_worker, add, journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def fail(number):
        raise ValueError("broken")

    @dramatiq.actor(broker=broker, queue_name=queue)
    def never(number):
        journal.note(number)

    start_worker(broker)
    pipe = pipeline([add.message(1, 2), fail.message(), never.message()], broker=broker).run()
    with pytest.raises(ResultFailure, match="broken"):
        pipe.messages[1].get_result(
            backend=broker.get_results_backend(), block=True, timeout=TIMEOUT_MS
        )
    assert journal.stays_at(0)


# --- groups


def test_a_group_has_the_results_of_all_its_members(broker, start_worker, add) -> None:
    start_worker(broker, threads=4)
    members = group([add.message(number, 1) for number in range(8)], broker=broker).run()
    assert list(members.get_results(block=True, timeout=TIMEOUT_MS)) == list(range(1, 9))


def test_a_group_calls_back_once_when_all_its_members_are_done(
    broker, queue, start_worker, add, journal, get
) -> None:
    @dramatiq.actor(broker=broker, queue_name=f"{queue}.done")
    def done(number):
        journal.note(number)

    messages = [add.message(number, 1) for number in range(6)]
    members = group(messages, broker=broker)
    for number in (1, 2):
        members.add_completion_callback(done.message(number))
    members.run()
    assert journal.stays_at(0)
    start_worker(broker, threads=4)
    assert sorted(journal.wait_for(2)) == [1, 2]
    assert [get(message) for message in messages] == list(range(1, 7))
    assert journal.stays_at(2)


def test_pipelines_can_be_members_of_a_group_that_calls_back(
    broker, queue, start_worker, add, journal
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def done():
        journal.note("done")

    pipes = [pipeline([add.message(n, 1), add.message(1)], broker=broker) for n in range(3)]
    members = group(pipes, broker=broker)
    members.add_completion_callback(done.message())
    start_worker(broker, threads=4)
    members.run()
    assert journal.wait_for(1) == ["done"]
    assert list(members.get_results(block=True, timeout=TIMEOUT_MS)) == [2, 3, 4]
    assert journal.stays_at(1)


def test_a_group_of_which_a_member_fails_does_not_call_back(
    broker, queue, start_worker, add, journal, get
) -> None:
    @dramatiq.actor(broker=broker, queue_name=queue)
    def fail():
        raise ValueError("broken")

    @dramatiq.actor(broker=broker, queue_name=queue)
    def done():
        journal.note("done")

    failing = fail.message()
    members = group([add.message(1, 1), failing], broker=broker)
    members.add_completion_callback(done.message())
    start_worker(broker)
    members.run()
    with pytest.raises(ResultFailure):
        get(failing)
    assert journal.stays_at(0)
