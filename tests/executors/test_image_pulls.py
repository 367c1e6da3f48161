"""Pulls are shared by those who wait, and end with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from executors.deadline import Deadline
from executors.errors import ImageUnavailable, Stopped
from executors.pulls import Abandoned, GivenUp, Pulls
from executors.stopping import Stopping
from tests.executors.sandboxes import eventually

FOREVER = Deadline(None)


class Pull:
    """One that waits until it is let go, or nobody wants it any more."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.given_up = threading.Event()
        self.calls = 0

    def __call__(self, abandoned: Abandoned) -> str:
        self.calls += 1
        self.begun.set()
        while not self.let_go.wait(0.005):
            if abandoned():
                self.given_up.set()
                raise GivenUp
        return "image"


def asked(pulls: Pulls[str], pull: Callable[[Abandoned], str], stopping: Stopping) -> str:
    return pulls.get("name", pull, FOREVER, stopping)


def test_one_pull_serves_all_and_the_next_is_a_new_one() -> None:
    pulls, pull = Pulls[str](), Pull()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(asked, pulls, pull, Stopping()) for _ in range(4)]
        assert pull.begun.wait(60)
        assert eventually(lambda: pulls._running["name"].waiting == 4)
        pull.let_go.set()
        assert [each.result(60) for each in waiting] == ["image"] * 4
    assert pull.calls == 1
    assert asked(pulls, pull, Stopping()) == "image"
    assert pull.calls == 2


def test_an_error_is_everybodys_and_not_kept() -> None:
    def fail(_: Abandoned) -> str:
        raise ImageUnavailable("name", "gone")

    pulls, pull = Pulls[str](), Pull()
    for _ in range(2):
        with pytest.raises(ImageUnavailable, match="gone"):
            asked(pulls, fail, Stopping())
    pull.let_go.set()
    assert asked(pulls, pull, Stopping()) == "image"


def test_a_pull_goes_on_until_the_last_who_waits_has_left() -> None:
    pulls, pull, first, last = Pulls[str](), Pull(), Stopping(), Stopping()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(asked, pulls, pull, stopping) for stopping in (first, last)]
        assert pull.begun.wait(60)
        # The pull may begin before it is entered.
        assert eventually(lambda: (it := pulls._running.get("name")) and it.waiting == 2)
        first.stop()
        with pytest.raises(Stopped):
            waiting[0].result(60)
        assert not pull.given_up.wait(0.05)
        last.stop()
        with pytest.raises(Stopped):
            waiting[1].result(60)
    assert pull.given_up.wait(60)


def test_who_comes_after_a_pull_was_given_up_begins_a_new_one() -> None:
    pulls, hanging, pull = Pulls[str](), Pull(), Pull()
    with pytest.raises(TimeoutError):
        pulls.get("name", hanging, Deadline(0.01), Stopping())
    pull.let_go.set()
    assert asked(pulls, pull, Stopping()) == "image"
    assert hanging.given_up.wait(60)


def test_after_a_stop_nobody_waits() -> None:
    pulls, pull, stopping = Pulls[str](), Pull(), Stopping()
    stopping.stop()
    with pytest.raises(Stopped):
        asked(pulls, pull, stopping)
