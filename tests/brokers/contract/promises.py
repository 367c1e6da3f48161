"""Promises that a broker is known not to keep: the test, the vendor, and why.

Each of these tests runs, and must fail: `error` is how. NatsBroker keeps them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import redis
from dramatiq.errors import ConnectionClosed, DecodeError, QueueJoinTimeout


@dataclass(frozen=True, kw_only=True, slots=True)
class Unkept:
    """Why a test must fail, with what error, and whether it does so every time."""

    why: str
    error: type[BaseException] = AssertionError
    always: bool = True

    def mark(self) -> pytest.MarkDecorator:
        return pytest.mark.xfail(reason=self.why, raises=self.error, strict=self.always)


NO_COUNTS = Unkept(why="it has no get_queue_message_counts", error=AttributeError)
NO_REQUEUE = Unkept(why="its requeue does nothing: what a worker held when it stopped is lost")
NO_SERVER = Unkept(why="it has no server that could be away", error=pytest.fail.Exception)
DELAYED_IN_MEMORY = Unkept(
    why="workers keep what is delayed in memory: a prefetch full of it lets nothing else in"
)
NOT_A_MESSAGE = Unkept(
    why="its consumer raises DecodeError, and the bytes are no dead letter", error=DecodeError
)
NOT_A_MESSAGE_IN_A_WORKER = Unkept(
    why="its consumer breaks: the bytes are no dead letter, and what it had fetched with them is "
    "not delivered"
)
POLLS = Unkept(why="it polls with a growing backoff instead of waiting")
UNACKED = "join does not see what is unacknowledged, as its docstring says"

UNKEPT: Mapping[str, Mapping[str, Unkept]] = {
    # sending
    "test_messages_of_the_far_future_do_not_hold_up_one_that_is_due": {
        "stub": DELAYED_IN_MEMORY,
        "redis": DELAYED_IN_MEMORY,
        "rabbitmq": DELAYED_IN_MEMORY,
    },
    "test_a_delayed_message_survives_the_worker_that_waits_for_it": {"stub": NO_REQUEUE},
    # consumers
    "test_an_idle_consumer_gives_up_after_its_timeout_and_not_before": {"redis": POLLS},
    "test_a_full_consumer_waits_too": {"redis": POLLS},
    "test_a_consumer_that_closes_hands_back_what_it_had_not_handed_out": {
        "redis": Unkept(why="its close does nothing: what it had fetched waits for maintenance"),
    },
    "test_a_rejected_delayed_message_becomes_a_dead_letter_of_its_queue": {
        "stub": Unkept(why="the dead letters of delayed messages have a queue of their own"),
    },
    "test_a_verdict_counts_after_its_consumer_was_closed": {
        "rabbitmq": Unkept(
            why="AMQP acknowledges on the channel that delivered: the message comes again",
            error=ConnectionClosed,
        ),
    },
    "test_a_requeued_message_goes_to_another_consumer_at_once": {"stub": NO_REQUEUE},
    "test_a_message_can_be_requeued_while_its_consumer_goes_on": {
        "stub": NO_REQUEUE,
        "redis": Unkept(why="what was requeued still counts against the prefetch"),
        "rabbitmq": Unkept(why="its requeue does nothing: only a consumer's end hands back"),
    },
    "test_what_cannot_be_decoded_is_a_dead_letter_and_the_next_one_is_read": {
        "stub": NOT_A_MESSAGE,
        "redis": NOT_A_MESSAGE,
    },
    "test_what_cannot_be_decoded_takes_no_place_of_the_prefetch": {
        "stub": NOT_A_MESSAGE,
        "redis": NOT_A_MESSAGE,
    },
    # queues
    "test_flush_drops_what_is_ready_delayed_or_dead": {
        "stub": Unkept(why="flush drops only what is ready", error=QueueJoinTimeout),
    },
    "test_join_counts_messages_in_flight": {
        "rabbitmq": Unkept(why=UNACKED, error=pytest.fail.Exception),
    },
    "test_join_waits_for_a_delayed_message_that_a_worker_has_yet_to_run": {
        "rabbitmq": Unkept(why=UNACKED),
    },
    "test_join_counts_what_somebody_else_holds": {
        "stub": Unkept(why="its messages are in the memory of one object"),
        "rabbitmq": Unkept(why=UNACKED, error=pytest.fail.Exception),
    },
    "test_the_counts_are_of_what_is_ready_delayed_and_dead": {
        "stub": NO_COUNTS,
        "redis": NO_COUNTS,
    },
    "test_what_is_in_flight_is_not_counted_as_ready": {"stub": NO_COUNTS, "redis": NO_COUNTS},
    "test_a_queue_that_was_never_used_counts_nothing": {"stub": NO_COUNTS, "redis": NO_COUNTS},
    "test_closing_twice_is_harmless_and_leaves_no_thread_and_no_socket": {
        "redis": Unkept(why="its close does nothing: sockets stay open"),
    },
    "test_sending_without_a_server_is_a_connection_error": {
        "stub": NO_SERVER,
        "redis": Unkept(
            why="enqueue lets redis-py's own ConnectionError through",
            error=redis.ConnectionError,
        ),
    },
    "test_consuming_without_a_server_is_a_connection_error": {"stub": NO_SERVER},
    # workers
    "test_a_worker_goes_on_after_what_cannot_be_decoded": {
        "stub": NOT_A_MESSAGE_IN_A_WORKER,
        "redis": NOT_A_MESSAGE_IN_A_WORKER,
    },
    "test_what_runs_while_its_worker_pauses_runs_once": {
        "rabbitmq": Unkept(why="it is acknowledged on a closed channel: it comes again"),
    },
    "test_what_waits_in_a_worker_that_stops_goes_to_another_one_at_once": {"stub": NO_REQUEUE},
    # middleware
    "test_an_actor_that_wants_to_know_is_told_of_the_workers_end": {
        # The worker that ends may take the retry before it does, or leave it.
        "stub": replace(NO_REQUEUE, always=False),
    },
    "test_an_actor_that_is_interrupted_while_it_sends_does_no_harm_to_later_messages": {
        "rabbitmq": Unkept(
            why="it goes on with a connection on which half a message was sent: 505 "
            "UNEXPECTED_FRAME ends it",
            always=False,  # the interrupt may come between two messages
        ),
    },
}
