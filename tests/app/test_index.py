"""The index of jobs over a real stream."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_site import IndexSite

from app.index.database import IndexUnusable, index_file
from app.index.query import Filter
from app.index.rows import microseconds
from brokers.nats.connection import NatsConnection
from tests.acceptance.processes import until

MONDAY, TUESDAY, FRIDAY = (f"2026-01-{day:02d}T12:00:00.000000Z" for day in (5, 6, 9))


@pytest.fixture
def site(connection, tmp_path) -> Iterator[IndexSite]:
    """Whose writer runs."""
    site = IndexSite(connection, tmp_path / "jobs.sqlite3")
    site.start()
    yield site
    site.stop()


def again(site: IndexSite) -> IndexSite:
    """The same installation, after all its processes have ended."""
    site.stop()
    fresh = IndexSite(site.connection, site.path, site.bucket.name)
    fresh.start()
    return fresh


def test_a_job_is_found_as_soon_as_it_is_stored(site) -> None:
    for _ in range(20):
        stored = site.put()
        assert stored["id"] in site.found()


def test_jobs_come_newest_first(site) -> None:
    ids = [site.put(queued_at=time)["id"] for time in (TUESDAY, FRIDAY, MONDAY)]
    assert site.found() == [ids[1], ids[0], ids[2]]


WANTED = {
    "state": Filter(states=["Running"]),
    "name": Filter(name="blue"),
    "beginning of a name": Filter(name="bl*"),
    "priority": Filter(priorities=["low"]),
    "submitted_by": Filter(submitted_by="ci"),
    "metadata": Filter(metadata={"course": "a"}),
    "several metadata": Filter(metadata={"course": "a", "group": "1"}),
    "queued_after": Filter(queued_after=microseconds(FRIDAY)),
    "all of them": Filter(
        states=["Failed", "Running"],
        name="b*",
        priorities=["low"],
        submitted_by="ci",
        metadata={"course": "a", "group": "1"},
        queued_after=microseconds(TUESDAY),
        queued_before=microseconds(FRIDAY) + 1,
    ),
}
THIS = {
    "state": "Running",
    "name": "blue",
    "priority": "low",
    "submitted_by": "ci",
    "metadata": {"course": "a", "group": "1"},
    "queued_at": FRIDAY,
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_each_filter_finds_the_jobs_that_it_names_and_no_others(site, wanted) -> None:
    others = {"state": "Queued", "name": "b", "metadata": {"course": "ab", "group": "2"}}
    mine = {site.put(**THIS)["id"] for _ in range(2)}
    for _ in range(3):
        site.put(**others, queued_at=MONDAY)
    assert set(site.found(wanted)) == mine


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Filter(states=["Queued", "Stopped"]), "ad"),
        (Filter(priorities=["medium", "low"]), "bc"),
        (Filter(queued_before=microseconds(TUESDAY)), "a"),
        (Filter(name="*"), "abcd"),
        (Filter(name="B"), ""),
        (Filter(submitted_by=""), "abd"),
        (Filter(metadata={"": "ü\ud800"}), "c"),
    ],
)
def test_what_a_filter_means(site, wanted, names) -> None:
    for name, fields in {
        "a": {"state": "Queued", "queued_at": MONDAY},
        "b": {"state": "Running", "priority": "medium", "queued_at": TUESDAY},
        "c": {
            "state": "Failed",
            "priority": "low",
            "submitted_by": "me",
            "metadata": {"": "ü\ud800"},
            "queued_at": FRIDAY,
        },
        "d": {"state": "Stopped", "queued_at": FRIDAY},
    }.items():
        site.put(id=f"id-{name}", name=name, **fields)
    assert sorted(site.found(wanted)) == [f"id-{name}" for name in names]


def test_a_job_is_found_by_the_state_that_it_is_in_now(site) -> None:
    job = site.put()
    for state in ("Running", "Queued", "Running", "Succeeded"):
        site.put(**{**job, "state": state})
        assert site.found(Filter(states=[state])) == [job["id"]]
    assert site.found() == [job["id"]]


def test_a_job_that_is_queued_anew_moves_to_the_front(site) -> None:
    jobs = [site.put(queued_at=time, metadata={"a": "b"}) for time in (MONDAY, TUESDAY)]
    site.put(**{**jobs[0], "queued_at": FRIDAY})
    for wanted in (Filter(), Filter(metadata={"a": "b"}), Filter(name="job")):
        assert site.found(wanted) == [jobs[0]["id"], jobs[1]["id"]]


def test_a_summary_has_no_steps(site) -> None:
    stored = site.put(steps=[{"id": 1}], reason="ä")
    site.found()
    (brief,) = site.index.page(Filter(), None, 1).jobs
    assert json.loads(brief) == {
        key: value for key, value in stored.items() if key not in ("steps", "queue_seq")
    }


def test_what_is_removed_is_found_no_more(site) -> None:
    job = site.put(metadata={"a": "b"})
    assert site.found() == [job["id"]]
    site.bucket.delete(job["id"])
    assert site.found() == site.found(Filter(metadata={"a": "b"})) == []


def test_what_is_no_record_does_not_stop_the_others(site) -> None:
    for value in (b"{", b"[]", b'{"id": 1}', b'{"id": "x", "queued_at": "soon"}'):
        site.bucket.put("broken", value)
    job = site.put()
    assert site.found() == [job["id"]]


def test_a_restart_goes_on_where_it_was(site) -> None:
    before = site.put()
    assert site.found() == [before["id"]]
    site.stop()
    ids = {before["id"], site.put()["id"]}
    fresh = again(site)
    assert set(fresh.found()) == ids
    assert fresh.feed.starts == [1]
    fresh.stop()


def test_a_lost_file_is_made_again_while_others_look(site) -> None:
    ids = {site.put()["id"] for _ in range(5)}
    assert set(site.found()) == ids
    for file in site.path.parent.glob("jobs.*"):
        file.unlink()
    ids.add(site.put()["id"])
    assert set(site.found()) == ids


def test_a_broken_file_is_made_again(site) -> None:
    job = site.put()
    assert site.found() == [job["id"]]
    site.stop()
    site.path.write_bytes(b"nonsense" * 4_096)
    fresh = again(site)
    assert fresh.found() == [job["id"]]
    fresh.stop()


def test_an_older_copy_of_the_file_catches_up(site, tmp_path) -> None:
    job = site.put()
    assert site.found() == [job["id"]]
    site.stop()
    shutil.copy(site.path, tmp_path / "old")
    fresh = again(site)
    site.put(**{**job, "state": "Failed"})
    assert fresh.found(Filter(states=["Failed"])) == [job["id"]]
    fresh.stop()
    for file in site.path.parent.glob("jobs.*"):
        file.unlink()
    shutil.copy(tmp_path / "old", site.path)
    fresh = again(fresh)
    assert fresh.found(Filter(states=["Failed"])) == [job["id"]]
    fresh.stop()


def test_a_file_of_another_version_is_made_anew(site) -> None:
    job = site.put()
    assert site.found() == [job["id"]]
    site.stop()
    with sqlite3.connect(site.path) as other:
        other.execute("DROP TABLE jobs")
        other.execute("PRAGMA user_version=999")
    other.close()
    fresh = again(site)
    assert fresh.found() == [job["id"]]
    fresh.stop()


def delete_stream(site: IndexSite) -> None:
    async def delete() -> None:
        await site.connection.jetstream.delete_stream(site.bucket.stream)

    site.connection.run(delete())


def test_another_stream_of_the_same_name_begins_anew(site) -> None:
    site.put()
    site.put()
    assert len(site.found()) == 2
    delete_stream(site)
    site.bucket.declare_again()
    job = site.put()
    assert site.found() == [job["id"]]


def test_what_the_stream_does_not_keep_any_more_is_dropped(site) -> None:
    for _ in range(3):
        site.put(metadata={"a": "b"})
    last = site.put(metadata={"a": "b"})
    assert len(site.found()) == 4

    async def expire() -> None:
        await site.connection.jetstream.purge_stream(site.bucket.stream, keep=1)

    site.connection.run(expire())
    fresh = again(site)
    until(lambda: fresh.found() == [last["id"]], "the index is pruned")
    assert fresh.found(Filter(metadata={"a": "b"})) == [last["id"]]
    fresh.stop()


def test_an_empty_stream_has_nothing_to_wait_for(site) -> None:
    site.put()

    async def expire() -> None:
        await site.connection.jetstream.purge_stream(site.bucket.stream)

    assert len(site.found()) == 1
    site.connection.run(expire())
    site.stop()
    site.path.unlink()
    fresh = again(site)
    assert fresh.found() == []
    fresh.stop()


def test_the_index_answers_while_nats_is_away(own_server, tmp_path) -> None:
    connection = NatsConnection(own_server.url)
    site = IndexSite(connection, tmp_path / "jobs.sqlite3")
    site.start()
    job = site.put()
    assert site.found() == [job["id"]]
    own_server.kill()
    assert site.index.catch_up(1.0) is None
    assert site.index.page(Filter(), None, 10).ids == (job["id"],)
    own_server.start()
    later = site.put()
    assert set(site.found()) == {job["id"], later["id"]}
    site.stop()
    connection.close()


def test_a_second_writer_takes_over_when_the_first_one_ends(site) -> None:
    site.put()
    assert len(site.found()) == 1  # so it has the lock
    rival = IndexSite(site.connection, site.path, site.bucket.name)
    rival.start()
    assert len(rival.found()) == 1
    assert rival.feed.starts == []
    site.stop()
    site.put()
    assert len(rival.found()) == 2
    assert rival.feed.starts == [1]
    rival.stop()


def test_the_file_lies_in_a_directory_of_ones_own(tmp_path) -> None:
    file = index_file(tmp_path / "a" / "index", "nats://one")
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert file != index_file(tmp_path / "a" / "index", "nats://two")


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_directory_that_others_could_have_made_is_refused(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "index"
    if kind == "open":
        directory.mkdir()
        directory.chmod(0o777)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "real")
    else:
        directory.write_text("")
    with pytest.raises(IndexUnusable, match="HADES_INDEX_DIR"):
        index_file(directory, "x")
