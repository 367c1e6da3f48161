"""The checker itself: a good history passes, and one that breaks a rule is caught."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brokers import transitions
from brokers.records import JobRecord
from brokers.transitions import HandBack
from executors.job import Job, JobState, Step
from tests.faults.checker import violations
from tests.faults.story import Answer, Delivery, JobStory, Life, Story, Told

NOW = "2026-01-01T00:00:00.000000Z"
JOB = Job(id="j", name="j", steps=(Step(id=1, image="i", script="true"),))
QUEUED = JobRecord.of(JOB)


def claimed(record: JobRecord, worker: str = "w") -> JobRecord:
    after = transitions.claimed(record, worker, queue_seq=1, now=NOW)
    assert after is not None
    return after


def ended(record: JobRecord, state: JobState = JobState.SUCCEEDED) -> JobRecord:
    return transitions.finished(record, record.attempt, state, "", record.steps, now=NOW)


FIRST = claimed(QUEUED)
SECOND = claimed(FIRST, "v")
END = ended(SECOND)
STOPPED = transitions.stopped(FIRST, "", now=NOW)
BACK = transitions.handed_back(FIRST, 1, HandBack.DRAINED, now=NOW)


def delivery(kind: str, record: JobRecord, **fields: Any) -> Delivery:
    body: object = {"job_id": "j", "status": str(record.state), "attempt": record.attempt}
    if kind == "logs":
        body = [{"job_id": "j", "container_id": "c", "logs": []}]
    plain = Delivery(
        id=f"j-{record.attempt}-{kind}-{record.state}-1",
        kind=kind,
        state=str(record.state),
        attempt=record.attempt,
        answered=200,
        body=body,
    )
    return replace(plain, **fields)


GOOD = JobStory(
    job_id="j",
    wanted=frozenset({"logs", "status"}),
    revisions=(QUEUED, FIRST, SECOND, END),
    told=(
        Told(state="Queued", attempt=0),
        Told(state="Running", attempt=1),
        Told(state="Running", attempt=2),
        Told(state="Succeeded", attempt=2),
        Told(state="Succeeded", attempt=2),
    ),
    results=(END.to_dict(), END.to_dict()),
    attempts_with_logs=frozenset({1, 2}),
    lives=(
        (Life(place="1", begun=1.0, ended=2.0), Life(place="2", begun=2.1, ended=3.0)),
        (Life(place="2", begun=1.5, ended=3.0),),
    ),
    delivered=(
        delivery("status", QUEUED),
        delivery("logs", END, answered=500),
        delivery("logs", END),
        delivery("status", END),
    ),
)


def found(**changes: Any) -> list[str]:
    return violations(Story(jobs=(replace(GOOD, **changes),)))


def history(*revisions: JobRecord | None) -> dict[str, Any]:
    """A story of nothing but these records, whose last one is told."""
    kept = [record for record in revisions if record is not None]
    end = kept[-1]
    told = (Told(state=str(end.state), attempt=end.attempt),) if end.state.final else ()
    return {
        "wanted": frozenset(),
        "revisions": tuple(kept),
        "told": told,
        "results": (end.to_dict(),) if end.state.final else (),
        "attempts_with_logs": frozenset(),
        "delivered": (),
    }


SILENT: dict[str, Any] = {
    "wanted": frozenset(),
    "delivered": (),
    "attempts_with_logs": frozenset(),
    "lives": (),
}
"""A job that never ran, and about which nobody wanted to hear."""


def test_a_good_history_passes() -> None:
    assert found() == []


@pytest.mark.parametrize(
    "revisions",
    [
        (QUEUED, STOPPED and transitions.stopped(QUEUED, "", now=NOW)),
        (FIRST, ended(FIRST, JobState.FAILED)),
        (QUEUED, replace(QUEUED, queue_seq=7), FIRST, STOPPED),
        (QUEUED, FIRST, BACK, claimed(BACK), ended(claimed(BACK))),
        (QUEUED, FIRST, replace(FIRST, updated_at="later"), ended(FIRST)),
    ],
)
def test_every_legal_way_passes(revisions: tuple[JobRecord, ...]) -> None:
    assert found(**history(*revisions)) == []


ILLEGAL = {
    "an attempt is left out": (QUEUED, FIRST, replace(SECOND, attempt=3), replace(END, attempt=3)),
    "an attempt goes back": (QUEUED, FIRST, SECOND, FIRST, ended(FIRST)),
    "an attempt is used twice": (QUEUED, FIRST, replace(FIRST, worker="v"), ended(FIRST)),
    "a lost worker is not counted": (QUEUED, FIRST, replace(SECOND, lost=0), replace(END, lost=0)),
    "a drain is counted as lost": (QUEUED, FIRST, replace(BACK, lost=1), ended(claimed(BACK))),
    "two counters at once": (QUEUED, FIRST, replace(BACK, errors=1, tries=1)),
    "a queued job changes by itself": (QUEUED, replace(QUEUED, reason="?"), FIRST, ended(FIRST)),
    "a second end": (QUEUED, FIRST, STOPPED, ended(FIRST)),
    "it runs after its end": (QUEUED, FIRST, STOPPED, SECOND, END),
    "it is queued after its end": (QUEUED, FIRST, STOPPED, QUEUED, STOPPED),
    "it begins with its end": (END,),
    "a step is gone": (QUEUED, FIRST, replace(ended(FIRST), steps=())),
}


@pytest.mark.parametrize("why", ILLEGAL)
def test_an_illegal_change_is_caught(why: str) -> None:
    assert found(**history(*ILLEGAL[why]))


def test_a_retry_passes_when_somebody_asked_for_it() -> None:
    again = transitions.retried(END, now=NOW)
    assert again is not None
    third = claimed(again)
    end = ended(third)
    changes: dict[str, Any] = {
        "revisions": (QUEUED, FIRST, SECOND, END, again, third, end),
        "told": (*GOOD.told, Told(state="Succeeded", attempt=3)),
        "results": (END.to_dict(), end.to_dict()),
        "delivered": (delivery("logs", end), delivery("status", end)),
    }

    assert found(**changes, retried=1) == []
    assert found(**changes)


WRONG: dict[str, dict[str, Any]] = {
    "an accepted job is lost": {**history(QUEUED), "revisions": ()},
    "it never ends": history(QUEUED, FIRST),
    "it waits for ever": history(QUEUED),
    "its end is not told": {"told": GOOD.told[:3]},
    "another end is told as well": {"told": (*GOOD.told, Told(state="Failed", attempt=2))},
    "the end of another attempt is told": {
        "told": (Told(state="Succeeded", attempt=1), *GOOD.told)
    },
    "it runs again after its end": {"told": (*GOOD.told, Told(state="Running", attempt=1))},
    "there is no result": {"results": ()},
    "the result is another one": {"results": (ended(SECOND, JobState.FAILED).to_dict(),)},
    "an attempt runs that nobody claimed": {"attempts_with_logs": frozenset({3})},
    "two attempts overlap": {
        "lives": ((Life(place="1", begun=1.0, ended=2.0), Life(place="2", begun=1.9, ended=3.0)),)
    },
    "two lives are one within the other": {
        "lives": (
            (
                Life(place="1", begun=1.0, ended=9.0),
                Life(place="1", begun=2.0, ended=2.5),
                Life(place="2", begun=8.0, ended=8.5),
            ),
        )
    },
    "nobody is called": {"delivered": ()},
    "the receiver never took it": {
        "delivered": (delivery("logs", END, answered=500), delivery("status", END))
    },
    "another state is delivered": {"delivered": (delivery("logs", END), delivery("status", FIRST))},
    "the body is another job's": {
        "delivered": (
            delivery("logs", END),
            delivery("status", END, body={"job_id": "k", "status": "Succeeded", "attempt": 2}),
        )
    },
    "the log is another job's": {
        "delivered": (delivery("logs", END, body=[{"job_id": "k"}]), delivery("status", END))
    },
    "a lie is delivered": {
        "delivered": (*GOOD.delivered, delivery("status", ended(SECOND, JobState.FAILED)))
    },
    "a callback comes unasked": {"wanted": frozenset({"logs"})},
}


@pytest.mark.parametrize("why", WRONG)
def test_what_must_not_be_is_caught(why: str) -> None:
    assert found(**WRONG[why])


def test_a_callback_that_was_given_up_need_not_be_delivered() -> None:
    assert not found(delivered=(delivery("logs", END),), dead=frozenset({"j-2-status-Succeeded-1"}))
    assert found(delivered=(delivery("logs", END),), dead=frozenset({"j-2-logs-Succeeded-1"}))


def test_a_refused_job_may_be_recorded_as_failed_and_must_not_run() -> None:
    refused = transitions.withdrawn(None, QUEUED, "refused", now=NOW)
    assert refused is not None

    for revisions in ((refused,), (QUEUED, refused), ()):
        told = history(*revisions) if revisions else {"revisions": (), "told": (), "results": ()}
        assert found(**{**told, **SILENT}, answer=Answer.REFUSED) == []
        assert found(**{**told, **SILENT, "lives": GOOD.lives}, answer=Answer.REFUSED)
    assert found(**{**history(*GOOD.revisions), **SILENT}, answer=Answer.REFUSED)
    assert found(**{**history(refused), **SILENT})


def test_nothing_is_asked_of_a_job_that_nobody_answered_for_unless_it_is_there() -> None:
    nothing = {**history(QUEUED), **SILENT, "revisions": ()}
    assert found(**nothing, answer=Answer.NONE) == []
    assert found(**history(QUEUED), answer=Answer.NONE)


def test_what_is_left_behind_is_caught() -> None:
    assert violations(Story(jobs=(GOOD,), left=("container c",))) == ["left behind: container c"]
