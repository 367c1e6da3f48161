"""Looking at jobs, stopping them and trying them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from v1_site import MASK, SECRET, V1Site, assert_problem

from app.v1.scopes import SCOPES
from brokers.transitions import HandBack
from brokers.worker_registry import WorkerRegistry, WorkerState, WorkerStatus
from executors.job import JobState

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def site(nats_server, tmp_path) -> Iterator[V1Site]:
    site = V1Site(nats_server.url, tmp_path)
    yield site
    site.close()


@pytest.fixture
def alone(own_server, tmp_path) -> Iterator[V1Site]:
    """With no other jobs, and a NATS that the test may end."""
    site = V1Site(own_server.url, tmp_path)
    yield site
    site.close()


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_has_what_was_just_submitted_and_how_it_is_now(site) -> None:
    for _ in range(10):
        job_id = site.submit()
        assert site.listed()[0] == job_id
        site.run(job_id)
        assert site.listed("state=Succeeded")[0] == job_id


def test_a_list_tells_summaries(site) -> None:
    job_id = site.submit(metadata={"course": "ä"})
    (brief,) = site.get(f"jobs?name={site.name}").json["jobs"]
    record = site.get(f"jobs/{job_id}").json
    assert "steps" not in brief
    assert record.items() >= brief.items()


def test_pages_follow_each_other(site) -> None:
    ids = [site.submit() for _ in range(5)]
    first = site.get(f"jobs?name={site.name}&limit=3").json
    later = site.submit()
    second = site.get(f"jobs?name={site.name}&limit=3&cursor={first['next']}").json
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next"] is None
    assert site.listed()[0] == later


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=Running", "b"),
        ("state=Running,Queued", "ab"),
        ("state=Running&state=Queued", "ab"),
        ("priority=low", "b"),
        ("metadata.a=1", "ab"),
        ("metadata.a=1&metadata.b=2", "b"),
        ("metadata.a=2", ""),
        ("submitted_by=", "ab"),
        ("submitted_by=nobody", ""),
        ("queued_after=2020-01-01T00:00:00Z", "ab"),
        ("queued_before=2020-01-01T00:00:00%2B02:00", ""),
    ],
)
def test_filters_of_a_list(site, query, found) -> None:
    ids = {
        "a": site.submit(metadata={"a": "1"}),
        "b": site.submit(metadata={"a": "1", "b": "2"}, priority=1),
    }
    site.claim(ids["b"])
    assert sorted(site.listed(query)) == sorted(ids[letter] for letter in found)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=running", "state"),
        ("priority=3", "priority"),
        ("queued_after=yesterday", "queued_after"),
        ("queued_before=2026-01-01T00:00:00", "queued_before"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=x", "cursor"),
        ("stat=Failed", "stat"),
    ],
)
def test_a_filter_that_is_none_is_refused(site, query, field) -> None:
    problem = assert_problem(site.get(f"jobs?{query}"), 400, "parameter-invalid")
    assert problem["errors"][0]["field"] == field


def test_a_list_says_when_it_may_be_old(alone, own_server) -> None:
    job_id = alone.submit()
    assert alone.listed() == [job_id]
    own_server.kill()
    answer = alone.get("jobs")
    assert [job["id"] for job in answer.json["jobs"]] == [job_id]
    assert answer.headers["X-Hades-Index-Lag"] == "unknown"


# --- one job -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/payload", "/result", "/events", "/logs"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "*", ">", "a.b", "%0D%0A", "ä"])
def test_an_unknown_job_is_a_404(site, path, job_id) -> None:
    site.submit()
    assert_problem(site.get(f"jobs/{job_id}{path}"), 404, "unknown-job")


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_nothing_can_be_done_with_an_unknown_job(site, verb) -> None:
    assert_problem(site.post(f"jobs/{UNKNOWN}/{verb}"), 404, "unknown-job")


def test_a_payload_has_no_secrets(site) -> None:
    steps = [{"image": "a", "script": f"echo {SECRET}", "metadata": {"TOKEN": SECRET}}]
    job_id = site.submit(metadata={"course": "algo", "KEY": SECRET}, steps=steps)
    shown = site.get(f"jobs/{job_id}/payload")
    assert shown.json["metadata"] == {"course": "algo", "KEY": MASK}
    assert shown.json["steps"][0]["metadata"] == {"TOKEN": MASK}
    assert SECRET not in shown.text
    assert SECRET not in site.get(f"jobs/{job_id}").text
    assert SECRET not in site.get(f"jobs?name={site.name}").text


def test_a_result_is_there_when_the_job_is_over(site) -> None:
    job_id = site.submit()
    assert assert_problem(site.get(f"jobs/{job_id}/result"), 409, "not-over")["state"] == "Queued"
    site.run(job_id, JobState.FAILED)
    result = site.get(f"jobs/{job_id}/result").json
    assert (result["id"], result["state"], result["attempt"]) == (job_id, "Failed", 1)
    assert result["queued_seconds"] >= 0
    assert result["run_seconds"] >= 0
    (step,) = result["steps"]
    assert (step["exit_code"], step["run_seconds"]) == (1, 1.5)


def test_a_job_that_never_ran_has_no_run_time(site) -> None:
    job_id = site.submit()
    site.post(f"jobs/{job_id}/cancel")
    result = site.get(f"jobs/{job_id}/result").json
    assert (result["state"], result["run_seconds"]) == ("Stopped", None)
    assert result["steps"][0]["run_seconds"] is None


def test_a_log_has_an_entry_for_each_step(site) -> None:
    assert site.get(f"jobs/{site.submit()}/logs").json == {"logs": []}


# --- events --------------------------------------------------------------------------------------


def live(site: V1Site, job_id: str, **headers: str) -> Iterator[dict[str, Any]]:
    """Events as they come."""
    answer = site.app.test_client().get(
        f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream", **headers}
    )
    assert answer.mimetype == "text/event-stream"
    for frame in answer.iter_encoded():
        number, data = frame.decode().strip().split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert number == f"id: {event['id']}"
        yield event
    answer.close()


def test_events_tell_the_whole_life_of_a_job(site) -> None:
    job_id = site.submit()
    lease = site.claim(job_id)
    site.store.give_back(lease, HandBack.DRAINED)
    site.run(job_id)
    events = site.get(f"jobs/{job_id}/events").json["events"]
    assert [(event["state"], event["attempt"]) for event in events] == [
        ("Queued", 0),
        ("Running", 1),
        ("Queued", 1),
        ("Running", 2),
        ("Succeeded", 2),
    ]
    assert [[step["state"] for step in event["steps"]] for event in events] == [
        ["Waiting"],
        [],
        [],
        [],
        ["Succeeded"],
    ]
    assert list(live(site, job_id)) == events
    assert list(live(site, job_id, **{"Last-Event-ID": str(events[2]["id"])})) == events[3:]
    assert list(live(site, job_id, **{"Last-Event-ID": str(events[-1]["id"])})) == []


def test_a_stream_goes_on_until_the_job_is_over(site) -> None:
    job_id = site.submit()
    stream = live(site, job_id)
    assert next(stream)["state"] == "Queued"
    lease = site.claim(job_id)
    assert next(stream)["state"] == "Running"
    site.store.finish(lease, JobState.SUCCEEDED, "", lease.record.steps)
    assert [event["state"] for event in stream] == ["Succeeded"]


def test_a_stream_makes_room_when_its_client_is_gone(site) -> None:
    job_id = site.submit()
    for _ in range(10):
        answer = site.app.test_client().get(
            f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}
        )
        answer.close()
    for _ in range(4):
        assert site.services.waiters.enter()
    refused = site.get(f"jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    assert_problem(refused, 503, "unavailable")
    assert site.get(f"jobs/{job_id}/events").status_code == 200


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
def test_a_job_that_is_cancelled_is_stopped_and_stays_so(site, running) -> None:
    job_id = site.submit()
    if running:
        site.claim(job_id)
    for _ in range(2):
        answer = site.post(f"jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json["state"]) == (200, "Stopped")
    assert site.listed("state=Stopped") == [job_id]


def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(site) -> None:
    job_id = site.submit()
    site.run(job_id)
    problem = assert_problem(site.post(f"jobs/{job_id}/cancel"), 409, "over")
    assert problem["state"] == "Succeeded"


def cancelled(site: V1Site, **body: Any) -> list[str]:
    answer = site.post("jobs/cancel", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json["stopped"] == len(answer.json["ids"])
    return sorted(answer.json["ids"])


def test_jobs_are_cancelled_by_what_they_have_in_common(alone) -> None:
    over = alone.submit(metadata={"course": "a"})
    alone.run(over)
    waiting, running = (alone.submit(metadata={"course": "a"}) for _ in range(2))
    alone.claim(running)
    others = [alone.submit(metadata={"course": "b"}) for _ in range(3)]
    alone.claim(others[0])
    assert cancelled(alone, metadata={"course": "a"}) == sorted([waiting, running])
    assert cancelled(alone, metadata={"course": "a"}) == []
    assert cancelled(alone, name=f"{alone.name}*", state="Queued") == sorted(others[1:])
    assert alone.state(others[0]) == "Running"
    assert cancelled(alone, all=True) == [others[0]]
    assert alone.state(over) == "Succeeded"


def test_all_of_many_jobs_are_cancelled(alone) -> None:
    alone.post("jobs", json={"jobs": [alone.job()] * 700})
    assert len(cancelled(alone, state="Queued")) == 700
    assert alone.listed("state=Queued") == []
    assert alone.get("queue").json["queued"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"all": False},
        {"all": "true"},
        {"name": ""},
        {"metadata": {}},
        {"name": "x", "all": True},
        {"state": "Succeeded"},
        {"metadata": {"a": 1}},
        {"nmae": "x"},
        {"name": "\ud800"},
        {"submitted_by": "a\0b"},
    ],
)
def test_a_filter_that_may_mean_more_than_was_meant_is_refused(alone, body) -> None:
    job_id = alone.submit()
    assert_problem(alone.post("jobs/cancel", json=body), 400, "parameter-invalid")
    assert alone.state(job_id) == "Queued"


def test_nothing_is_cancelled_by_filter_while_nats_is_away(alone, own_server) -> None:
    alone.submit()
    own_server.kill()
    assert_problem(alone.post("jobs/cancel", json={"all": True}), 503, "unavailable")


# --- trying again --------------------------------------------------------------------------------


def test_a_job_that_is_over_is_tried_again_under_its_id(site) -> None:
    job_id = site.submit()
    site.run(job_id, JobState.FAILED)
    answer = site.post(f"jobs/{job_id}/retry")
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    assert (answer.json["state"], answer.json["attempt"]) == ("Queued", 1)
    site.run(job_id)
    record = site.get(f"jobs/{job_id}").json
    assert (record["state"], record["attempt"]) == ("Succeeded", 2)


def test_a_job_that_is_not_over_is_not_tried_again(site) -> None:
    job_id = site.submit()
    assert_problem(site.post(f"jobs/{job_id}/retry"), 409, "not-over")


def test_a_job_with_secrets_is_tried_again_by_who_knows_them(site) -> None:
    steps = [{"image": "a", "metadata": {"TOKEN": SECRET}}]
    job = site.job(metadata={"course": "x", "KEY": SECRET}, steps=steps)
    job_id = site.submit(**job)
    site.run(job_id, JobState.FAILED)
    problem = assert_problem(site.post(f"jobs/{job_id}/retry"), 409, "secrets-gone")
    paths = {error["field"] for error in problem["errors"]}
    assert paths == {"metadata.KEY", "steps[0].metadata.TOKEN"}
    assert site.state(job_id) == "Failed"
    assert site.post(f"jobs/{job_id}/retry", json=job).status_code == 202
    assert site.state(job_id) == "Queued"


def test_only_the_same_job_is_tried_again(site) -> None:
    job_id = site.submit()
    site.run(job_id)
    other = site.job(name="other", steps=[{"image": "b"}])
    problem = assert_problem(site.post(f"jobs/{job_id}/retry", json=other), 422, "another-job")
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"name", "steps[0].id", "steps[0].image", "steps[0].name"}
    assert_problem(site.post(f"jobs/{job_id}/retry", json={}), 400, "job-invalid")


def test_a_retry_may_bring_other_secrets_and_nothing_else_that_is_new(site) -> None:
    def job(secret: str, **fields: Any) -> dict[str, Any]:
        steps = [{"image": "a", "script": f"make test # {secret}"}]
        return site.job(metadata={"API_TOKEN": secret, "COURSE": "x"}, steps=steps, **fields)

    job_id = site.submit(**job("t0ps3cret"))
    site.run(job_id)
    other = job("t0ps3cret", priority=1)
    other["metadata"]["COURSE"] = "y"
    other["steps"][0]["script"] = "make something else"
    problem = assert_problem(site.post(f"jobs/{job_id}/retry", json=other), 422, "another-job")
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"metadata.COURSE", "priority", "steps[0].script"}
    assert site.post(f"jobs/{job_id}/retry", json=job("another1")).status_code == 202


# --- queue and workers ---------------------------------------------------------------------------


def test_the_queue_is_told_by_priority(alone) -> None:
    empty = {"queued": 0, "in_flight": 0, "oldest": None}
    assert alone.get("queue").json == {
        **empty,
        "delayed": 0,
        "dead_letters": 0,
        "priorities": {"high": empty, "medium": empty, "low": empty},
    }
    for priority in (1, 3, 3):
        alone.submit(priority=priority)
    told = alone.get("queue").json
    assert told["queued"] == 3
    assert [told["priorities"][name]["queued"] for name in ("high", "medium", "low")] == [2, 0, 1]
    assert told["oldest"] == told["priorities"]["low"]["oldest"] or told["oldest"]["queued_at"]
    assert told["oldest"]["queued_at"] == told["priorities"]["low"]["oldest"]["queued_at"]
    assert told["priorities"]["medium"]["oldest"] is None


def test_the_oldest_is_the_first_that_no_worker_has_had(alone) -> None:
    for _ in range(2):
        alone.submit()
    before = alone.get("queue").json["oldest"]["queued_at"]
    consumer = alone.queue.broker.consume("jobs", prefetch=1, timeout=10_000)
    held = next(consumer)
    told = alone.get("queue").json
    assert (told["queued"], told["in_flight"]) == (1, 1)
    assert told["oldest"]["queued_at"] > before
    consumer.ack(held)
    consumer.close()
    assert alone.get("queue").json["in_flight"] == 0


def test_workers_are_listed_as_long_as_they_are_alive(alone) -> None:
    assert alone.get("workers").json == {"workers": []}
    seen = {"started_at": "2026-01-01T00:00:00.000000Z", "seen_at": "2026-01-01T00:00:00.000000Z"}
    statuses = [
        WorkerStatus(
            name="b.2", host="b", pid=2, executor="docker", version="1", concurrency=4, **seen
        ),
        WorkerStatus(
            name="a.1",
            host="a",
            pid=1,
            executor="sandbox",
            version="1",
            concurrency=2,
            busy=1,
            state=WorkerState.PAUSED,
            reason="the disk is full",
            **seen,
        ),
    ]
    registry = WorkerRegistry(alone.queue.broker.connection)
    for status in statuses:
        registry.put(status)
    told = alone.get("workers").json["workers"]
    assert told == [asdict(status) for status in reversed(statuses)]
    registry.remove("a.1")
    assert [worker["name"] for worker in alone.get("workers").json["workers"]] == ["b.2"]


# --- routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "jobs/", "job", "jobs/x/y", "queue/x"])
def test_an_unknown_route_is_a_problem(site, path) -> None:
    assert assert_problem(site.get(path), 404)["title"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "jobs", "POST"), ("POST", "queue", "GET"), ("DELETE", "jobs/x", "GET")],
)
def test_a_wrong_method_is_a_problem_that_names_the_right_one(site, method, path, allowed) -> None:
    answer = site.client.open(f"/v1/{path}", method=method)
    assert_problem(answer, 405)
    assert allowed in answer.headers["Allow"]


def test_an_unexpected_failure_is_a_problem_without_internals(site, monkeypatch) -> None:
    def fail(job_id: str) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(site.store, "get", fail)
    answer = site.get(f"jobs/{UNKNOWN}")
    assert_problem(answer, 500)
    assert SECRET not in answer.text


def test_a_nats_that_is_away_is_a_503(alone, own_server) -> None:
    job_id = alone.submit()
    own_server.kill()
    alone.store._patience = 0.1
    assert_problem(alone.get(f"jobs/{job_id}"), 503, "unavailable")


def test_every_route_has_its_scope(site) -> None:
    routes = {rule.endpoint for rule in site.app.url_map.iter_rules() if "/v1/" in rule.rule}
    assert routes == set(SCOPES)
