"""The soak of `benchmarks.soak`, in its short form."""

from __future__ import annotations

import pytest

from benchmarks.soak import Plan, report, soak
from tests.acceptance.conftest import need_sandbox, open_directory

SEED = 20_260_101


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(400)
def test_under_random_kills_no_job_is_lost_or_doubled_and_nothing_is_left() -> None:
    with open_directory() as directory:
        need_sandbox(directory)
    plan = Plan(minutes=1.0, rate=2.0, seed=SEED, kill_seconds=6.0, sample_seconds=10.0)
    outcome = soak(plan)
    print(report(outcome))
    assert outcome.broken == []
    assert sum(outcome.kills.values()) >= 5
    assert outcome.jobs["accepted"] >= 60
