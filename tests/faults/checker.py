"""What must be true of every run, whatever has happened in it.

`violations(story)` replays the history of each job and says, in words, which rules it breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise

from brokers.records import JobRecord
from executors.job import JobState
from tests.faults.story import Answer, JobStory, Life, Story

Rule = Callable[[JobStory], Iterator[str]]

_COUNTERS = ("lost", "errors", "tries")


def violations(story: Story) -> list[str]:
    """Empty: everything was as it must be."""
    found = [
        f"job {job.job_id}: {what}" for job in story.jobs for rule in RULES for what in rule(job)
    ]
    return found + [f"left behind: {what}" for what in story.left]


def an_accepted_job_is_known(job: JobStory) -> Iterator[str]:
    """Of a job that nobody answered for, nothing is asked."""
    if job.answer is Answer.ACCEPTED and not job.revisions:
        yield "it was accepted, and there is no record of it"


def a_refused_job_never_runs(job: JobStory) -> Iterator[str]:
    """It may have a record, which then says that it failed."""
    if job.answer is not Answer.REFUSED:
        return
    if any(record.attempt for record in job.revisions):
        yield "it was refused, and yet claimed"
    if job.attempts_with_logs or any(job.lives):
        yield "it was refused, and yet it ran"


def a_history_begins_at_the_beginning(job: JobStory) -> Iterator[str]:
    """Queued; or Running, where a worker was faster than the API; or Failed, when it was refused
    before it had a record."""
    beginnings = {(JobState.QUEUED, 0), (JobState.RUNNING, 1)}
    if job.answer is not Answer.ACCEPTED:
        beginnings.add((JobState.FAILED, 0))
    if job.revisions and not job.cut:
        first = job.revisions[0]
        if (first.state, first.attempt) not in beginnings:
            yield f"it begins {_brief(first)}"


def changes_are_legal(job: JobStory) -> Iterator[str]:
    """One after the other; a job that was over begins again only when somebody asked for it."""
    asked = job.retried
    for before, after in pairwise(job.revisions):
        if before.state.final and after.state is JobState.QUEUED:
            asked -= 1
            if asked >= 0 and after.attempt == before.attempt:
                continue
        elif is_legal(before, after):
            continue
        yield f"{_brief(before)} became {_brief(after)}"


def is_legal(before: JobRecord, after: JobRecord) -> bool:
    """Whether a worker, or whoever stops jobs, may make this change."""
    if before.id != after.id or len(before.steps) != len(after.steps) or before.state.final:
        return False
    counted = _counted(before, after)
    if after.attempt == before.attempt + 1:
        lost = int(before.state is JobState.RUNNING)
        return after.state is JobState.RUNNING and counted == (lost, 0, 0)
    if after.attempt != before.attempt:
        return False
    if after.state is JobState.QUEUED:
        if before.state is JobState.QUEUED:
            return replace(before, queue_seq=after.queue_seq) == after
        return counted in ((0, 0, 0), (0, 1, 0), (0, 0, 1))
    ran_on = before.state is after.state is JobState.RUNNING and before.worker == after.worker
    return counted == (0, 0, 0) and (after.state.final or ran_on)


def a_job_ends_once(job: JobStory) -> Iterator[str]:
    """For each time that it was asked for."""
    if job.answer is Answer.NONE and not job.revisions:
        return
    ends = [record for record in job.revisions if record.state.final]
    if job.revisions and not job.revisions[-1].state.final:
        yield f"it never ended, it is {_brief(job.revisions[-1])}"
    elif len(ends) > 1 + job.retried:
        yield f"it ended {len(ends)} times"


def one_end_is_told(job: JobStory) -> Iterator[str]:
    """The one that the record has, as often as it likes, and nothing but it afterwards."""
    if not job.revisions or not job.revisions[-1].state.final:
        return
    ends = {(str(each.state), each.attempt) for each in job.revisions if each.state.final}
    told = [(each.state, each.attempt) for each in job.told]
    last = (str(job.revisions[-1].state), job.revisions[-1].attempt)
    for end in ends - set(told):
        yield f"nobody was told that it {end[0]} in attempt {end[1]}"
    for wrong in {each for each in told if JobState(each[0]).final} - ends:
        yield f"it was told to have {wrong[0]} in attempt {wrong[1]}"
    if last in told and not job.retried:
        for late in {*told[told.index(last) :]} - {last}:
            yield f"{late[0]} of attempt {late[1]} was told after the end"


def the_result_is_the_record(job: JobStory) -> Iterator[str]:
    """All that tell the end tell the same."""
    ends = {(str(each.state), each.attempt) for each in job.revisions if each.state.final}
    told = {(each["state"], each["attempt"]) for each in job.results}
    if ends != told:
        yield f"results tell {sorted(told)}, the record has {sorted(ends)}"


def only_claimed_attempts_run(job: JobStory) -> Iterator[str]:
    """An attempt that has a log was claimed."""
    if not job.cut:
        claimed = {record.attempt for record in job.revisions}
        for attempt in sorted(job.attempts_with_logs - claimed):
            yield f"attempt {attempt} has a log, but was never claimed"


def attempts_do_not_overlap(job: JobStory) -> Iterator[str]:
    """Of no witness's lives in two places, one begins before the other has ended."""
    for lives in job.lives:
        for one, other in combinations(sorted(lives, key=lambda life: life.begun), 2):
            if one.place != other.place and other.begun <= one.ended:
                yield f"{_where(one)} overlaps {_where(other)}"


def the_end_reaches_who_wants_it(job: JobStory) -> Iterator[str]:
    """Delivered with the right body, or given up with a reason."""
    if not job.revisions or not job.revisions[-1].state.final:
        return
    end = job.revisions[-1]
    about = f"-{end.state}-"
    for kind in sorted(job.wanted):
        reached = [
            each
            for each in job.delivered
            if each.kind == kind and 200 <= each.answered < 300 and each.state == str(end.state)
        ]
        if not reached and not any(f"-{kind}-" in dead and about in dead for dead in job.dead):
            yield f"its end was neither delivered as {kind} nor given up"
        if any(not _is_right(each.kind, each.body, end) for each in reached):
            yield f"its end was delivered as {kind} with a wrong body"


def callbacks_tell_the_truth(job: JobStory) -> Iterator[str]:
    """What a receiver hears has been so."""
    if job.cut:
        return
    been = {(str(record.state), record.attempt) for record in job.revisions} | {("Queued", 0)}
    for state, attempt in sorted({(each.state, each.attempt) for each in job.delivered} - been):
        yield f"a receiver was told {state} of attempt {attempt}, which it never was"
    for kind in sorted({each.kind for each in job.delivered} - job.wanted):
        yield f"a receiver was told {kind}, for which nobody asked"


def _is_right(kind: str, body: object, end: JobRecord) -> bool:
    if kind == "logs":
        return isinstance(body, list) and all(slot["job_id"] == end.id for slot in body)
    expected = {"job_id": end.id, "status": str(end.state), "attempt": end.attempt}
    return isinstance(body, dict) and expected.items() <= body.items()


def _counted(before: JobRecord, after: JobRecord) -> tuple[int, ...]:
    return tuple(getattr(after, name) - getattr(before, name) for name in _COUNTERS)


def _brief(record: JobRecord) -> str:
    counters = " ".join(f"{name}={getattr(record, name)}" for name in _COUNTERS)
    return f"{record.state} (attempt {record.attempt}, {counters})"


def _where(life: Life) -> str:
    return f"{life.place} ({life.begun:.2f} to {life.ended:.2f})"


RULES: tuple[Rule, ...] = (
    an_accepted_job_is_known,
    a_refused_job_never_runs,
    a_history_begins_at_the_beginning,
    changes_are_legal,
    a_job_ends_once,
    one_end_is_told,
    the_result_is_the_record,
    only_claimed_attempts_run,
    attempts_do_not_overlap,
    the_end_reaches_who_wants_it,
    callbacks_tell_the_truth,
)
