"""Pages of the index, whatever comes between them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_site import record

from app.index.database import open_for_writing
from app.index.query import Cursor, Filter
from app.index.reader import JobIndex
from app.index.table import JobTable
from brokers.record_feed import Change, RecordFeed, StreamState

STATES = ("Queued", "Running", "Failed")
JOBS = st.tuples(
    st.integers(0, 5),  # the microsecond in which it was queued: many at once
    st.sampled_from(STATES),
    st.sampled_from(["a", "ab", "b"]),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)
FILTERS = st.builds(
    Filter,
    states=st.lists(st.sampled_from(STATES), max_size=2),
    name=st.sampled_from(["", "a", "a*"]),
    metadata=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)


class Jobs:
    """An index that is written by hand."""

    def __init__(self, directory: Path) -> None:
        path = directory / "jobs.sqlite3"
        self._connection = open_for_writing(path)
        self._table = JobTable(self._connection)
        self._table.adopt(StreamState("now", 1, 0))
        self.index = JobIndex(path, cast(RecordFeed, None))
        self.stored: list[dict[str, Any]] = []

    def put(self, second: int, job: tuple[int, str, str, dict[str, str]]) -> None:
        moment, state, name, metadata = job
        time = f"2026-01-01T00:00:{second:02d}.{moment:06d}Z"
        stored = record(queued_at=time, state=state, name=name, metadata=metadata)
        self.stored.append(stored)
        value = json.dumps(stored).encode()
        self._table.apply([Change(len(self.stored), stored["id"], value)])

    def wanted(self, wanted: Filter) -> set[str]:
        return {job["id"] for job in self.stored if _admits(wanted, job)}

    def close(self) -> None:
        self.index.close()
        self._connection.close()


def _admits(wanted: Filter, job: dict[str, Any]) -> bool:
    name = wanted.name
    named = not name or job["name"] == name or (name[-1] == "*" and job["name"].startswith("a"))
    return (
        (not wanted.states or job["state"] in wanted.states)
        and named
        and wanted.metadata.items() <= job["metadata"].items()
    )


@contextmanager
def some_jobs(first: list[Any]) -> Iterator[Jobs]:
    with tempfile.TemporaryDirectory() as directory:
        jobs = Jobs(Path(directory))
        for job in first:
            jobs.put(0, job)
        yield jobs
        jobs.close()


@settings(deadline=None)
@given(
    st.lists(JOBS, max_size=20),
    st.lists(st.lists(JOBS, max_size=3), max_size=5),
    FILTERS,
    st.integers(1, 4),
)
def test_every_job_is_on_one_page_whatever_comes_meanwhile(first, later, wanted, limit) -> None:
    with some_jobs(first) as jobs:
        expected, seen, after, more = jobs.wanted(wanted), list[str](), None, True
        while more:
            page = jobs.index.page(wanted, after, limit)
            seen += page.ids
            after, more = page.next and Cursor.decode(page.next.encode()), page.next is not None
            for job in later.pop() if later else []:
                jobs.put(1, job)
        assert len(seen) == len(set(seen))
        assert set(seen) == expected


@settings(deadline=None)
@given(st.lists(JOBS, min_size=1, max_size=20), FILTERS)
def test_pages_are_in_order(first, wanted) -> None:
    with some_jobs(first) as jobs:
        ids = [job_id for ids in jobs.index.every_id(wanted, 3) for job_id in ids]
        order = {job["id"]: (job["queued_at"], job["id"]) for job in jobs.stored}
        assert ids == sorted(ids, key=lambda job_id: order[job_id], reverse=True)


@pytest.mark.parametrize("text", ["", "x", "MTIz", "ä", "MTIzOg", "====", "/", "Og"])
def test_a_cursor_that_no_list_has_given_is_refused(text) -> None:
    with pytest.raises(ValueError):
        Cursor.decode(text)
