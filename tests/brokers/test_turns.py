"""Whose turn it is, without any server."""

from __future__ import annotations

import pytest

from brokers.nats.pulls import Turns, weights


def served(turns: Turns, waiting: set[int], count: int) -> list[int]:
    """The lanes of `count` messages taken one by one, when only `waiting` lanes have any."""
    order = []
    for _ in range(count):
        lanes = [0, 1, 2]
        while (lane := turns.plan(1, lanes)[0]) not in waiting:
            turns.empty(lane)
            lanes.remove(lane)
        turns.took(lane, lanes)
        order.append(lane)
    return order


def test_each_lane_gets_its_share_of_seven_turns_and_the_top_lane_the_first():
    order = Turns(weights(3)).plan(7, [0, 1, 2])
    assert order[0] == 0
    assert [order.count(lane) for lane in (0, 1, 2)] == [4, 2, 1]


def test_looking_at_the_plan_changes_nothing():
    turns = Turns(weights(3))
    assert turns.plan(5, [0, 1, 2]) == turns.plan(5, [0, 1, 2])


@pytest.mark.parametrize("waiting", [{0, 2}, {1, 2}, {0, 1}, {0, 1, 2}])
def test_no_lane_that_has_messages_starves_whichever_others_are_empty(waiting):
    order = served(Turns(weights(3)), waiting, 50)
    for start in range(0, 50, 10):
        assert set(order[start : start + 10]) == waiting
    assert order[0] == min(waiting)
    assert [order.count(lane) for lane in sorted(waiting)] == sorted(
        (order.count(lane) for lane in waiting), reverse=True
    )


def test_a_lane_that_was_empty_for_long_is_owed_nothing():
    turns = Turns(weights(3))
    served(turns, {0}, 100)
    assert served(turns, {0, 1, 2}, 7).count(0) >= 3
