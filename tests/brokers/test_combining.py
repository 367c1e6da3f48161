import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from brokers.combining import Combining


class Gate:
    """Doubles numbers, but only when it is open; notes what went together."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def double(self, numbers):
        self.batches.append(list(numbers))
        self.entered.release()
        assert self.open.wait(30)
        if 99 in numbers:
            raise ValueError("99")
        return [2 * number for number in numbers]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def all_waiting(combining: Combining[int, int], count: int) -> bool:
    return len(combining._waiting) == count


def test_what_comes_alone_goes_at_once(gate):
    gate.open.set()
    combining = Combining(gate.double)
    assert [combining(1), combining(2)] == [2, 4]
    assert gate.batches == [[1], [2]]


@pytest.mark.parametrize(("most", "batches"), [(64, [1, 20]), (8, [1, 8, 8, 4])])
def test_what_comes_meanwhile_goes_together(gate, most, batches):
    combining = Combining(gate.double, most)
    with ThreadPoolExecutor(21) as threads:
        first = threads.submit(combining, 0)
        gate.entered.acquire()
        others = [threads.submit(combining, number) for number in range(1, 21)]
        while not all_waiting(combining, 20):
            threading.Event().wait(0.001)
        gate.open.set()
        assert first.result() == 0
        assert [other.result() for other in others] == [2 * number for number in range(1, 21)]
    assert [len(batch) for batch in gate.batches] == batches


def test_an_error_is_raised_for_all_that_went_together_and_for_no_other(gate):
    combining = Combining(gate.double)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(combining, 0)
        gate.entered.acquire()
        others = [threads.submit(combining, number) for number in (98, 99, 100)]
        while not all_waiting(combining, 3):
            threading.Event().wait(0.001)
        gate.open.set()
        assert first.result() == 0
        for other in others:
            with pytest.raises(ValueError, match="99"):
                other.result()
        assert combining(5) == 10


def test_many_threads_get_each_their_own_answer():
    combining = Combining(lambda numbers: [2 * number for number in numbers], 3)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(combining, range(5000))) == [2 * n for n in range(5000)]
