"""Events are the differences between revisions: put together, they are the record again."""

from __future__ import annotations

from dataclasses import asdict, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from app.v1.changes import changes
from brokers.records import JobRecord, StepRecord, StepState
from executors.job import JobState

STEP = st.builds(
    StepRecord,
    id=st.integers(0, 3),
    name=st.sampled_from("ab"),
    image=st.just("i"),
    state=st.sampled_from(StepState),
    exit_code=st.none() | st.integers(0, 1),
    tries=st.integers(0, 2),
)
REVISION = st.tuples(
    st.sampled_from(JobState),
    st.integers(0, 3),
    st.sampled_from(["", "why"]),
    st.sampled_from("vw"),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, JobRecord]]:
    """A job keeps its steps; anything about them may change."""
    count = draw(st.integers(0, 3))
    record = JobRecord(id="x", name="n", priority="low")
    history = []
    for number, (state, attempt, reason, worker) in enumerate(draw(st.lists(REVISION, min_size=1))):
        steps = tuple(draw(st.lists(STEP, min_size=count, max_size=count)))
        record = replace(
            record,
            state=state,
            attempt=attempt,
            reason=reason,
            worker=worker,
            updated_at=str(number),
            steps=steps,
        )
        history.append((number * 3 + 1, record))
    return history


@settings(deadline=None)
@given(histories())
def test_all_events_together_are_the_record(history) -> None:
    last = history[-1][1]
    steps: dict[int, dict] = {}
    events = list(changes(history))
    for event in events:
        steps |= {step["index"]: step for step in event["steps"]}
    assert [steps[index] for index in range(len(last.steps))] == [
        {"index": index, **asdict(step)} for index, step in enumerate(last.steps)
    ]
    told = {key: events[-1][key] for key in ("state", "reason", "attempt", "worker")}
    assert told == {key: asdict(last)[key] for key in told}


@settings(deadline=None)
@given(histories())
def test_each_event_tells_just_the_steps_that_changed(history) -> None:
    before = None
    for event, (revision, record) in zip(changes(history), history, strict=True):
        assert (event["id"], event["at"]) == (revision, record.updated_at)
        told = {step["index"] for step in event["steps"]}
        assert told == {
            index
            for index, step in enumerate(record.steps)
            if before is None or before.steps[index] != step
        }
        before = record


@settings(deadline=None)
@given(histories(), st.data())
def test_events_go_on_where_others_have_ended(history, data) -> None:
    cut = data.draw(st.integers(1, len(history)))
    first = list(changes(history[:cut]))
    assert first + list(changes(history[cut:], history[cut - 1][1])) == list(changes(history))
