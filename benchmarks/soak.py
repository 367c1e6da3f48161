"""Twenty minutes of jobs under random kills: none may be lost, none doubled, and nothing grows.

    python -m benchmarks.soak [--minutes 20] [--rate 2.5] [--seed N] [--executor sandbox] [--json F]

Ends with exit code 1 when a rule of `tests.faults.checker` is broken. README.md says how to read
the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.soak_house import SoakHouse
from benchmarks.soak_jobs import Clients
from benchmarks.soak_samples import Growth, Sample, growths, take
from brokers.nats.connection import NatsConnection
from tests.acceptance.conftest import load_image, open_directory
from tests.faults.checker import violations
from tests.faults.story import Answer, Story

KILL_SECONDS = 10.0
SAMPLE_SECONDS = 30.0

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for."""

    minutes: float = 20.0
    rate: float = 2.5
    """Jobs a second."""
    seed: int = 0
    executor: str = "sandbox"
    kill_seconds: float = KILL_SECONDS
    sample_seconds: float = SAMPLE_SECONDS


@dataclass(kw_only=True)
class Outcome:
    """What has come of it."""

    plan: Plan
    broken: list[str] = field(default_factory=list)
    """Rules that do not hold, and for which job."""
    kills: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    """By answer, by end, and by how many attempts they took."""
    samples: list[Sample] = field(default_factory=list)
    settle_seconds: float = 0.0
    """From the last submission to the end of the last job."""

    @property
    def growths(self) -> list[Growth]:
        """Between the first and the last third."""
        return growths(self.samples)


def soak(plan: Plan, tell: Tell = lambda line: None) -> Outcome:
    """All of it, in a directory of its own."""
    with open_directory() as directory:
        house = SoakHouse(directory, plan.executor, random.Random(plan.seed))
        with house:
            if plan.executor != "dummy":
                load_image(house, "busybox")
            house.start_workers()
            outcome = Outcome(plan=plan)
            _soak(house, outcome, tell)
            outcome.kills = dict(house.kills)
            _check(house, outcome, tell)
    return outcome


def _soak(house: SoakHouse, outcome: Outcome, tell: Tell) -> None:
    plan, begun = outcome.plan, time.monotonic()
    nats = NatsConnection(house.nats.url)
    next_kill, next_sample = plan.kill_seconds, 0.0
    with Clients(house, random.Random(plan.seed + 1), rate=plan.rate) as clients:
        while (second := time.monotonic() - begun) < plan.minutes * 60:
            if second >= next_sample:
                next_sample += plan.sample_seconds
                sample = take(second, len(house.submitted), house.programs(), house.data_dir, nats)
                outcome.samples.append(sample)
                tell(f"{second:6.0f} s: {clients.posted} posted, {sample.jobs} accepted")
            elif second >= next_kill:
                next_kill += plan.kill_seconds
                tell(f"{second:6.0f} s: killed: {house.kill_one()}")
            else:
                time.sleep(min(next_kill, next_sample, plan.minutes * 60) - second + 0.001)
        clients.stop()
        outcome.jobs = {"posted": clients.posted, "cancelled": clients.cancelled}
    nats.close()


def _check(house: SoakHouse, outcome: Outcome, tell: Tell) -> None:
    tell("waiting for the last jobs")
    begun = time.monotonic()
    try:
        house.settled()
    except AssertionError as error:
        outcome.broken.append(f"it does not come to rest: {error}")
    outcome.settle_seconds = time.monotonic() - begun
    tell("checking")
    story = house.story()
    outcome.broken += violations(story)
    outcome.jobs |= _counts(story, house.answers)


def _counts(story: Story, answers: dict[str, Answer]) -> dict[str, int]:
    counts = Counter(str(answer) for answer in answers.values())
    for each in story.jobs:
        if each.revisions:
            end = each.revisions[-1]
            counts[str(end.state)] += 1
            counts[f"{end.attempt} attempts"] += 1
            counts["workers lost"] += end.lost
        counts["callbacks wanted"] += len(each.wanted)
        counts["callbacks given up"] += len(each.dead)
    return dict(sorted(counts.items()))


def report(outcome: Outcome) -> str:
    """For people."""
    plan = outcome.plan
    kills = ", ".join(f"{name} {count}" for name, count in sorted(outcome.kills.items()))
    jobs = ", ".join(f"{name} {count}" for name, count in outcome.jobs.items())
    rows = ["| what | first third | last third | for each job |", "|---|--:|--:|--:|"]
    for each in outcome.growths:
        rows.append(
            f"| {each.what} | {_shown(each.what, each.first)} | {_shown(each.what, each.last)} "
            f"| {_a_job(each)} |"
        )
    return "\n".join(
        (
            f"{plan.minutes:g} minutes, {plan.rate:g} jobs/s, seed {plan.seed}, {plan.executor}",
            f"kills: {kills}",
            f"jobs: {jobs}",
            f"at rest {outcome.settle_seconds:.0f} s after the last submission",
            "",
            *rows,
            "",
            *(outcome.broken or ["nothing lost, nothing doubled, nothing left"]),
        )
    )


def _is_size(what: str) -> bool:
    return what.endswith(("memory", "bytes")) or what.startswith("disk")


def _shown(what: str, value: float) -> str:
    return f"{value / 1e6:.1f} MB" if _is_size(what) else f"{value:.0f}"


def _a_job(growth: Growth) -> str:
    return f"{growth.a_job:+.0f} B" if _is_size(growth.what) else f"{growth.a_job:+.2f}"


def main() -> None:
    """The command line, described above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--executor", default="sandbox")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    plan = Plan(
        minutes=chosen.minutes, rate=chosen.rate, seed=chosen.seed, executor=chosen.executor
    )
    print(f"seed {plan.seed}", flush=True)
    outcome = soak(plan, lambda line: print(line, flush=True))
    print(report(outcome))
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(outcome), indent=1))
    sys.exit(bool(outcome.broken))


if __name__ == "__main__":
    main()
