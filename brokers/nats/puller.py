"""Pulls messages from the lanes of one queue, never more than there are free slots.

While there is work, the puller asks lane by lane for what is there, each lane for its share of the
free slots, and gives the shares of empty lanes to the others: a high lane goes first, a low one
always goes on. When
every lane is empty it leaves one pull standing on each and sleeps until the server answers one; the
others are withdrawn before it goes on. A message that arrives in that moment and finds no slot is
handed back at once, so a busy worker never holds what an idle one could run.

All of it happens on the event loop; `run` is a task that ends with `close`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .connection import REQUEST_SECONDS

STANDING_SECONDS = 30.0
"""How long the server keeps a pull that it cannot answer."""
RETRY_SECONDS = 0.2
"""Pause after a round that failed, before the consumers are declared anew."""

_GONE = ("409", "503")

log = logging.getLogger(__name__)


class LaneGone(Exception):
    """The server does not know the lane's consumer (any more)."""


def weights(lanes: int) -> list[int]:
    """Shares of the lanes, the top lane first: 4, 2, 1 for three."""
    return [2**exponent for exponent in reversed(range(lanes))]


class Turns:
    """Smooth weighted round robin over the lanes that have messages.

    A lane that is found empty loses the credit that it saved up: it is neither owed anything later,
    nor does it stand in the way of the others.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        self._shares = shares
        self._credit = [0] * len(shares)

    def plan(self, slots: int, lanes: Sequence[int]) -> list[int]:
        """Whose turns come next, if all of `lanes` have messages."""
        kept = list(self._credit)
        turns = []
        for _ in range(slots):
            turns.append(max(lanes, key=lambda lane: self._credit[lane] + self._shares[lane]))
            self.took(turns[-1], lanes)
        self._credit = kept
        return turns

    def took(self, lane: int, lanes: Sequence[int]) -> None:
        """`lane` had a turn, of `lanes`."""
        for each in lanes:
            self._credit[each] += self._shares[each]
        self._credit[lane] -= sum(self._shares[each] for each in lanes)

    def empty(self, lane: int) -> None:
        """`lane` had no message when it was asked."""
        self._credit[lane] = 0


class Puller:
    """Feeds `deliver` with messages of `consumers` (durable names, the top lane first)."""

    def __init__(
        self,
        client: Client,
        *,
        stream: str,
        consumers: Sequence[str],
        slots: int,
        deliver: Callable[[Msg], None],
        declare: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._next_subjects = [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}" for name in consumers]
        self._turns = Turns(weights(len(consumers)))
        self._free = slots
        self._deliver = deliver
        self._declare = declare
        self._wake = asyncio.Event()
        self._closed = False

    def release(self) -> None:
        """A slot is free again."""
        self._free += 1
        self._wake.set()

    def wake(self) -> None:
        """Look again: the connection is new, and what was asked on the old one is forgotten."""
        self._wake.set()

    async def close(self) -> None:
        """Pull nothing more; what was asked for is withdrawn before `run` ends."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Pull until closed. Survives the loss of the connection, the consumers or the stream."""
        while not self._closed:
            try:
                await self._declare()
                while not self._closed:
                    await self._round()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if not self._closed:
                    log.debug("pulling again after %r", error)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _round(self) -> None:
        self._wake.clear()
        if self._free == 0:
            await self._wake.wait()
        elif not await self._sweep() and not self._closed:
            await self._stand()

    async def _sweep(self) -> int:
        """Take what is there, lane by lane in turn; returns how many messages that were."""
        lanes, taken = list(range(len(self._next_subjects))), 0
        while lanes and self._free > 0 and not self._closed:
            turns = self._turns.plan(self._free, lanes)
            for lane in dict.fromkeys(turns):
                wanted = min(turns.count(lane), self._free)
                if wanted == 0 or self._closed:
                    break
                received = await self._ask(lane, wanted)
                taken += received
                for _ in range(received):
                    self._turns.took(lane, lanes)
                if received < wanted:
                    self._turns.empty(lane)
                    lanes.remove(lane)
        return taken

    async def _ask(self, lane: int, batch: int) -> int:
        """One pull that does not wait; returns how many messages it brought."""
        done = asyncio.get_running_loop().create_future()
        received = 0

        async def on_answer(message: Msg) -> None:
            nonlocal received
            status = _status(message)
            if status is None:
                received += 1
                self._accept(message)
            if (status is not None or received == batch) and not done.done():
                done.set_result(status)

        subscription = await self._pull(lane, {"batch": batch, "no_wait": True}, on_answer)
        try:
            status = await asyncio.wait_for(done, REQUEST_SECONDS)
        except BaseException:
            await self._withdraw([subscription])
            raise
        await _forget(subscription)
        if status in _GONE:
            raise LaneGone(self._next_subjects[lane])
        return received

    async def _stand(self) -> None:
        """Sleep until a lane has a message, the server gives up a pull, or somebody wakes us."""
        gone: list[str] = []

        async def on_answer(message: Msg) -> None:
            status = _status(message)
            if status is None:
                self._accept(message)
            elif status in _GONE:
                gone.append(status)
            self._wake.set()

        pull = {"batch": 1, "expires": int(STANDING_SECONDS * 1e9)}
        subscriptions = [
            await self._pull(lane, pull, on_answer) for lane in range(len(self._next_subjects))
        ]
        try:
            await asyncio.wait_for(self._wake.wait(), STANDING_SECONDS + REQUEST_SECONDS)
        except TimeoutError:
            log.debug("a standing pull was never answered")
        finally:
            await self._withdraw(subscriptions)
        if gone:
            raise LaneGone(self._next_subjects[0])

    async def _pull(
        self, lane: int, request: Mapping[str, object], callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=callback)
        await self._client.publish(
            self._next_subjects[lane], json.dumps(request).encode(), reply=inbox
        )
        return subscription

    async def _withdraw(self, subscriptions: Sequence[Subscription]) -> None:
        """End the pulls without losing what is already on its way to us."""
        if not self._client.is_connected:
            for subscription in subscriptions:
                await _forget(subscription)
            return
        await asyncio.gather(*(_drain(subscription) for subscription in subscriptions))

    def _accept(self, message: Msg) -> None:
        if self._free > 0 and not self._closed:
            self._free -= 1
            self._deliver(message)
        else:
            self._returning = asyncio.ensure_future(hand_back(self._client, message.reply))


async def hand_back(client: Client, ack_subject: str) -> None:
    """Give a message back to the queue: the next free worker gets it at once."""
    await client.publish(ack_subject, b"-NAK")


async def _drain(subscription: Subscription) -> None:
    try:
        await subscription.drain()
    except nats.errors.Error:
        await _forget(subscription)


async def _forget(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error:
        log.debug("a subscription was gone already")


def _status(message: Msg) -> str | None:
    """The status that the server sends instead of a message: 404, 408, 409, 503."""
    headers = message.headers
    return headers.get("Status") if headers and not message.data else None
