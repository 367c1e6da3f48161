"""The arithmetic of token buckets, with clocks of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.token_buckets import Level, Rate

rates = st.builds(
    Rate,
    amount=st.integers(1, 5_000),
    unit=st.sampled_from("smh"),
    burst=st.integers(1, 10_000),
)
waits = st.floats(0, 100, allow_nan=False)
counts = st.integers(1, 50)


@pytest.mark.parametrize(
    ("text", "burst", "per_second", "holds"),
    [("50/s", 0, 50, 50), ("3000/m", 0, 50, 3000), ("36/h", 0, 0.01, 36), ("5/s", 20, 5, 20)],
)
def test_a_rate_is_written_as_an_amount_of_jobs_in_a_unit_of_time(text, burst, per_second, holds):
    rate = Rate.parse(text, burst)
    assert (rate.per_second, rate.burst, str(rate)) == (per_second, holds, text)


@pytest.mark.parametrize("text", ["", "50", "50/d", "0/s", "-1/s", "5.5/s", "50 /s", "x/s", "٣/s"])
def test_anything_else_is_no_rate(text):
    with pytest.raises(ValueError, match="50/s"):
        Rate.parse(text)


@given(rates, st.lists(st.tuples(waits, counts), max_size=60))
def test_in_any_time_no_more_is_taken_than_the_burst_and_what_comes_in(rate, requests):
    now, level, taken = 1_000.0, Level.decode(None, rate, 1_000.0), 0
    for wait, count in requests:
        now += wait
        level = level.refilled(rate, now)
        count = min(count, rate.burst)
        if not level.lacks(rate, count):
            level, taken = level.minus(count), taken + count
    assert taken <= rate.burst + (now - 1_000.0) * rate.per_second + 1e-3 * (1 + len(requests))


@given(rates, st.floats(0, 1e4), counts)
def test_who_waits_as_long_as_he_was_told_is_served(rate, tokens, count):
    level = Level(min(tokens, rate.burst), 0.0)
    assert level.refilled(rate, level.lacks(rate, count)).lacks(rate, count) == 0


@given(rates, counts)
def test_more_than_the_burst_needs_a_full_bucket_and_is_paid_for_later(rate, extra):
    count = rate.burst + extra
    full = Level(float(rate.burst), 0.0)
    assert full.lacks(rate, count) == 0
    assert full.minus(1).lacks(rate, count) > 0
    owing = full.minus(count)
    assert owing.lacks(rate, 1) * rate.per_second == pytest.approx(extra + 1, abs=1e-3)


@given(rates, st.floats(0, 1e4), st.floats(0, 1e6))
def test_a_clock_that_is_behind_neither_fills_nor_empties_a_bucket(rate, tokens, behind):
    level = Level(min(tokens, rate.burst), 1e6)
    assert level.refilled(rate, 1e6 - behind) == level


@given(rates, st.floats(-1e4, 1e4), st.floats(0, 1e9))
def test_a_level_is_stored_and_read_as_it_was(rate, tokens, at):
    level = Level(min(tokens, rate.burst), at)
    assert Level.decode(level.encode(), rate, at) == level
