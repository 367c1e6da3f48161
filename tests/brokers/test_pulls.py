"""What to ask for, against a simulated server: lanes, pulls, and two directions that take time."""

from __future__ import annotations

import math
from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brokers.nats.pulls import ManyLanes, Order, Pull, Withdraw, plan, weights


class Lane:
    """One consumer of the server: messages that wait, and pulls that stand."""

    def __init__(self) -> None:
        self.messages = 0
        self.pulls: deque[list[object]] = deque()  # [token, how many are left]


class Simulation:
    """A plan, its orders on their way, a server, and what is on its way back.

    Each lane's answers keep their order; those of different lanes may overtake each other.
    """

    def __init__(self, slots: int, lanes: int) -> None:
        self.slots = slots
        self.plan = plan(slots, lanes)
        self.lanes = [Lane() for _ in range(lanes)]
        self.held: Counter[int] = Counter()
        self.bounced = 0
        self.stopped = False
        self.exact = True
        self.orders: deque[Order] = deque()
        self.answers: list[deque[tuple[str, int] | None]] = [deque() for _ in range(lanes)]
        self._send(self.plan.start())

    def _send(self, orders: list[Order]) -> None:
        if self.stopped:
            assert not any(isinstance(order, Pull) for order in orders)
        for order in orders:
            if isinstance(order, Pull):
                assert 1 <= order.batch <= self.slots
                assert 0 <= order.lane < len(self.lanes)
        self.orders.extend(orders)

    # What the world does

    def publish(self, lane: int, count: int) -> None:
        self.lanes[lane].messages += count
        self._serve(lane)

    def serve_order(self) -> None:
        """The server reads the oldest order."""
        order = self.orders.popleft()
        if isinstance(order, Withdraw):
            for lane in self.lanes:
                lane.pulls = deque(
                    pull for pull in lane.pulls if str(pull[0]).split(".")[1] != str(order.round)
                )
            return
        lane = self.lanes[order.lane]
        if order.waits:
            lane.pulls.append([order.token, order.batch])
            self._serve(order.lane)
            return
        there = min(order.batch, lane.messages)
        lane.messages -= there
        self.answers[order.lane].extend([None] * there)
        if there < order.batch:
            self.answers[order.lane].append((order.token, order.batch - there))

    def _serve(self, number: int) -> None:
        lane = self.lanes[number]
        while lane.messages and lane.pulls:
            lane.messages -= 1
            self.answers[number].append(None)
            lane.pulls[0][1] -= 1  # type: ignore[operator]
            if not lane.pulls[0][1]:
                lane.pulls.popleft()

    def expire(self, lane: int) -> None:
        """The server has kept the oldest pull for as long as it does."""
        token, left = self.lanes[lane].pulls.popleft()
        self.answers[lane].append((str(token), int(left)))  # type: ignore[call-overload]

    def read_answer(self, lane: int) -> None:
        """The consumer reads what the lane has sent first."""
        answer = self.answers[lane].popleft()
        if answer is None:
            accepted, orders = self.plan.arrived(lane)
            if accepted:
                self.held[lane] += 1
            else:  # it is handed back
                self.bounced += 1
                self.publish(lane, 1)
        else:
            orders = self.plan.ended(*answer)
        self._send(orders)

    def release(self, lane: int) -> None:
        self.held[lane] -= 1
        self._send(self.plan.released())

    def start_again(self) -> None:
        """Nothing was heard for long; the connection is the same, so late answers may still come.

        They take slots that were asked for anew, so more is asked for than is free, for a while.
        """
        self.exact = False
        self._send(self.plan.start())

    def reconnect(self) -> None:
        """What was on its way comes back to the queue after the ack wait."""
        for number, answers in enumerate(self.answers):
            self.lanes[number].pulls.clear()
            self.lanes[number].messages += sum(answer is None for answer in answers)
            answers.clear()
        self.orders.clear()
        self.exact = True
        self._send(self.plan.start())

    def stop(self) -> None:
        self.stopped = True
        self._send(self.plan.stop())

    def run(self) -> None:
        """Until nothing is on its way."""
        for _ in range(100_000):
            if self.orders:
                self.serve_order()
            elif lanes := [number for number, waiting in enumerate(self.answers) if waiting]:
                self.read_answer(lanes[0])
            else:
                return
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        assert sum(self.held.values()) + self.plan.free == self.slots
        assert 0 <= self.plan.free <= self.slots

    def check_at_rest(self) -> None:
        """What waits is asked for, and what will come too; and no more than that."""
        self.check()
        free = self.plan.free
        standing = [sum(int(left) for _, left in lane.pulls) for lane in self.lanes]  # type: ignore[call-overload]
        if self.stopped:
            assert not any(standing)
            return
        if free:
            assert not any(lane.messages for lane in self.lanes)
            assert all(standing)
            assert self.plan.patience < math.inf
        if self.exact:
            limit = free if len(self.lanes) == 1 else min(1, free)
            assert all(count <= limit for count in standing)


class Machine(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    @initialize(slots=st.integers(1, 9), lanes=st.integers(1, 4))
    def begin(self, slots: int, lanes: int) -> None:
        self.world = Simulation(slots, lanes)

    def lane(self, number: int) -> int:
        return number % len(self.world.lanes)

    @rule(lane=st.integers(0, 3), count=st.integers(1, 12))
    def publish(self, lane: int, count: int) -> None:
        self.world.publish(self.lane(lane), count)

    @rule(count=st.integers(1, 4))
    def the_server_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.world.orders))):
            self.world.serve_order()

    @rule(lane=st.integers(0, 3), count=st.integers(1, 4))
    def the_consumer_reads(self, lane: int, count: int) -> None:
        lane = self.lane(lane)
        for _ in range(min(count, len(self.world.answers[lane]))):
            self.world.read_answer(lane)

    @rule(lane=st.integers(0, 3), count=st.integers(1, 9))
    def release(self, lane: int, count: int) -> None:
        lane = self.lane(lane)
        for _ in range(min(count, self.world.held[lane])):
            self.world.release(lane)

    @rule(lane=st.integers(0, 3))
    def a_pull_expires(self, lane: int) -> None:
        lane = self.lane(lane)
        if self.world.lanes[lane].pulls:
            self.world.expire(lane)

    @rule()
    def start_again(self) -> None:
        self.world.start_again()

    @rule()
    def reconnect(self) -> None:
        self.world.reconnect()

    @precondition(lambda self: not self.world.stopped)
    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:
            self.world.stop()

    @rule()
    def come_to_rest(self) -> None:
        self.world.run()
        self.world.check_at_rest()

    @invariant()
    def no_more_is_held_than_there_are_slots(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run()
            self.world.check_at_rest()


TestWhateverHappens = Machine.TestCase
TestWhateverHappens.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 2, 7])
def test_free_slots_are_filled_and_every_message_comes(slots, lanes):
    world = Simulation(slots, lanes)
    for lane in range(lanes):
        world.publish(lane, 50)
    seen: Counter[int] = Counter()
    for _ in range(50 * lanes):
        world.run()
        world.check_at_rest()
        lane = next(lane for lane, count in world.held.items() if count)
        seen[lane] += 1
        world.release(lane)
    assert seen == dict.fromkeys(range(lanes), 50)


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_undisturbed_plan_hands_nothing_back(lanes):
    world = Simulation(4, lanes)
    for _ in range(200):
        world.publish(0, 1)
        world.run()
        if not world.plan.free:
            while world.held[0]:
                world.release(0)
    assert world.bounced == 0


def test_a_pull_that_expires_is_asked_again():
    for lanes in (1, 3):
        world = Simulation(3, lanes)
        world.run()
        for lane in range(lanes):
            world.expire(lane)
        world.run()
        world.check_at_rest()


def test_answers_to_an_earlier_connection_change_nothing():
    for lanes in (1, 2):
        current = plan(2, lanes)
        first = current.start()
        [token] = {order.token for order in first if isinstance(order, Pull) and order.lane == 0}
        current.start()
        assert current.ended(token, 2) == []


def test_a_lane_with_a_message_a_second_does_not_stop_the_others():
    world = Simulation(1, 3)
    for lane in range(3):
        world.publish(lane, 30)
    order = []
    for _ in range(90):
        world.run()
        [lane] = [lane for lane, count in world.held.items() if count]
        order.append(lane)
        world.release(lane)
    first = order[:21]
    assert first.count(0) > first.count(1) > first.count(2) > 0


def test_shares_halve_from_lane_to_lane():
    assert weights(4) == [8, 4, 2, 1]
    assert isinstance(plan(1, 2), ManyLanes)
