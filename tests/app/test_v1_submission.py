"""`POST /v1/jobs`."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator

import pytest
from v1_site import V1Site, assert_problem

from brokers import idempotency
from brokers.token_buckets import Rate
from executors.errors import JobQueueFull, QueueUnavailable
from executors.job import JobState


@pytest.fixture
def site(nats_server, tmp_path) -> Iterator[V1Site]:
    site = V1Site(nats_server.url, tmp_path)
    yield site
    site.close()


def test_a_job_is_taken_and_where_to_find_it_is_told(site) -> None:
    answer = site.post("jobs", json=site.job(metadata={"course": "algo"}, priority=2))
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
    record = site.client.get(answer.headers["Location"]).json
    assert record.items() >= answer.json.items()
    assert answer.json["state"] == "Queued"
    assert answer.json["priority"] == "medium"
    assert answer.json["metadata"] == {"course": "algo"}
    assert [step["state"] for step in record["steps"]] == ["Waiting"]


def test_a_job_that_is_invalid_is_a_problem_that_names_each_field(site) -> None:
    steps = [{"image": "a", "cpu_limit": -1, "script": 7}, {"image": "b", "memory_limit": 3}]
    problem = assert_problem(site.post("jobs", json=site.job(steps=steps)), 400, "job-invalid")
    told = {error["field"]: error["message"] for error in problem["errors"]}
    assert set(told) == {"steps[0].cpu_limit", "steps[0].script", "steps[1].memory_limit"}
    assert all(path in message for path, message in told.items())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff"])
def test_what_is_no_job_is_a_problem(site, body) -> None:
    answer = site.post("jobs", data=body, content_type="application/json")
    assert_problem(answer, 400, "job-invalid")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_does_not_say_that_it_is_json_is_a_415(site, kind) -> None:
    assert_problem(site.post("jobs", data=b"{}", content_type=kind), 415)


def test_a_body_that_is_too_large_is_a_413_that_names_the_limit(site) -> None:
    problem = assert_problem(site.post("jobs", json={"name": "x" * 8_500_000}), 413, "too-large")
    assert "8388608 bytes" in problem["detail"]


def test_a_queue_that_does_not_confirm_is_a_503(site, monkeypatch) -> None:
    def fail(jobs) -> None:
        raise QueueUnavailable("no answer")

    monkeypatch.setattr(site.queue, "put_many", fail)
    answer = site.post("jobs", json=site.job())
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"


def test_a_parameter_that_nobody_knows_is_refused(site) -> None:
    problem = assert_problem(site.post("jobs?wiat=3", json=site.job()), 400, "parameter-invalid")
    assert problem["errors"][0]["field"] == "wiat"
    assert site.listed() == []


def test_a_job_carries_the_name_of_its_key(nats_server, tmp_path) -> None:
    site = V1Site(nats_server.url, tmp_path, auth_key="k")
    headers = {"Authorization": "Basic " + b64encode(b"hades:k").decode()}
    answer = site.post("jobs", json=site.job(), headers=headers)
    assert answer.json["submitted_by"] == "hades"
    listed = site.get(f"jobs?submitted_by=hades&name={site.name}", headers=headers)
    assert [job["id"] for job in listed.json["jobs"]] == [answer.json["id"]]
    site.close()


def test_each_job_of_a_batch_counts_for_the_rate_limit(nats_server, tmp_path) -> None:
    rate = Rate(amount=1, unit="h", burst=3)
    site = V1Site(nats_server.url, tmp_path, rate_limit=rate)
    answer = site.post("jobs", json={"jobs": [site.job()] * 4})
    assert_problem(answer, 429, "rate-limited")
    assert int(answer.headers["Retry-After"]) > 0
    site.close()


def test_a_full_queue_is_a_503_that_says_when_to_come_again(site, monkeypatch) -> None:
    def fail(jobs) -> None:
        raise JobQueueFull("it holds 3")

    monkeypatch.setattr(site.queue, "put_many", fail)
    answer = site.post("jobs", json=site.job())
    assert_problem(answer, 503, "queue-full")
    assert answer.headers["Retry-After"] == "5"


# --- many ----------------------------------------------------------------------------------------


def test_each_job_of_a_batch_has_a_result_of_its_own(site) -> None:
    jobs = [site.job(priority=1), site.job(steps=[]), "x", site.job(priority=3)]
    answer = site.post("jobs", json={"jobs": jobs})
    assert answer.status_code == 202
    results = answer.json["results"]
    assert [result["status"] for result in results] == [202, 400, 400, 202]
    assert results[1]["problem"]["errors"][0]["field"] == "steps"
    ids = [results[0]["id"], results[3]["id"]]
    assert [site.get(f"jobs/{job_id}").json["priority"] for job_id in ids] == ["low", "high"]
    assert sorted(site.listed()) == sorted(ids)


def test_a_batch_may_have_a_thousand_jobs(site) -> None:
    answer = site.post("jobs", json={"jobs": [site.job()] * 1_000})
    ids = [result["id"] for result in answer.json["results"]]
    assert len(set(ids)) == 1_000
    found, cursor = list[str](), ""
    while cursor is not None:
        page = site.get(f"jobs?name={site.name}&limit=300&cursor={cursor}").json
        found += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
    assert sorted(found) == sorted(ids)


@pytest.mark.parametrize("jobs", [[], {}, None, "x", [{}] * 1_001])
def test_a_batch_of_no_or_too_many_jobs_is_refused(site, jobs) -> None:
    problem = assert_problem(site.post("jobs", json={"jobs": jobs}), 400, "parameter-invalid")
    assert problem["errors"][0]["field"] == "jobs"


def test_a_batch_does_not_wait(site) -> None:
    answer = site.post("jobs?wait=1", json={"jobs": [site.job()]})
    assert_problem(answer, 400, "parameter-invalid")


# --- waiting -------------------------------------------------------------------------------------


def test_a_client_that_waits_gets_the_record_when_the_job_is_over(site) -> None:
    answers = []
    client = site.app.test_client()
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/v1/jobs?wait=60", json=site.job()))
    )
    thread.start()
    while not (ids := site.listed()):
        pass
    site.run(ids[0], JobState.FAILED)
    thread.join()
    assert answers[0].status_code == 200
    assert answers[0].json["state"] == "Failed"
    assert answers[0].json["steps"][0]["exit_code"] == 1


def test_a_client_that_waits_in_vain_is_told_that_the_job_is_taken(site) -> None:
    answer = site.post("jobs?wait=1", json=site.job())
    assert (answer.status_code, answer.json["state"]) == (202, "Queued")


def test_when_too_many_wait_already_nobody_else_does(site) -> None:
    for _ in range(4):
        assert site.services.waiters.enter()
    assert site.post("jobs?wait=60", json=site.job()).status_code == 202


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5", ""])
def test_nobody_waits_for_longer_than_a_minute(site, wait) -> None:
    answer = site.post(f"jobs?wait={wait}", json=site.job())
    assert_problem(answer, 400, "parameter-invalid")


# --- idempotency ---------------------------------------------------------------------------------


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_a_request_that_is_sent_again_gets_the_same_job(site) -> None:
    first = site.post("jobs", json=site.job(), headers=keyed(site.name))
    again = site.post("jobs", json=dict(reversed(site.job().items())), headers=keyed(site.name))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert site.listed() == [first.json["id"]]


def test_a_batch_that_is_sent_again_gets_the_same_jobs(site) -> None:
    body = {"jobs": [site.job(), {}, site.job()]}
    first, again = (site.post("jobs", json=body, headers=keyed(site.name)) for _ in range(2))
    assert first.json == again.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(site.listed()) == 2


def test_a_key_of_another_request_is_a_422(site) -> None:
    site.post("jobs", json=site.job(), headers=keyed(site.name))
    answer = site.post("jobs", json=site.job(priority=1), headers=keyed(site.name))
    assert_problem(answer, 422, "idempotency-key-reused")


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256])
def test_a_key_of_odd_characters_is_refused(site, key) -> None:
    answer = site.post("jobs", json=site.job(), headers=keyed(key))
    problem = assert_problem(answer, 400, "parameter-invalid")
    assert problem["errors"][0]["field"] == "Idempotency-Key"


def test_a_request_that_is_being_worked_on_is_a_409(site, monkeypatch) -> None:
    busy, go = threading.Event(), threading.Event()
    put = site.queue.put_many

    def slowly(jobs):
        busy.set()
        assert go.wait(60)
        return put(jobs)

    monkeypatch.setattr(site.queue, "put_many", slowly)
    answers = []
    client = site.app.test_client()

    def post() -> None:
        answers.append(client.post("/v1/jobs", json=site.job(), headers=keyed(site.name)))

    thread = threading.Thread(target=post)
    thread.start()
    assert busy.wait(60)
    answer = site.post("jobs", json=site.job(), headers=keyed(site.name))
    assert_problem(answer, 409, "idempotency-key-busy")
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    go.set()
    thread.join()
    assert answers[0].status_code == 202
    assert len(site.listed()) == 1


def test_a_request_that_was_refused_begins_anew(site, monkeypatch) -> None:
    def fail(jobs) -> None:
        refused.extend(job.id for job in jobs)
        raise QueueUnavailable("no answer")

    refused = list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(site.queue, "put_many", fail)
        assert_problem(again(site), 503, "unavailable")
    while (answer := again(site)).status_code == 409:
        pass
    assert answer.status_code == 202
    assert answer.json["id"] not in refused


def again(site: V1Site):
    return site.post("jobs", json=site.job(), headers=keyed(site.name))


class Vanished(BaseException):
    """Ends a request as a crash would."""


def abandoned(site: V1Site, monkeypatch, *, after_put: bool) -> list[str]:
    """Begin a request and leave it; the ids that it reserved."""
    ids, put = list[str](), site.queue.put_many

    def vanish(jobs):
        ids.extend(job.id for job in jobs)
        if after_put:
            put(jobs)
        raise Vanished

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "LEASE_SECONDS", 0.0)
        patch.setattr(site.queue, "put_many", vanish)
        with pytest.raises(Vanished):
            again(site)
    return ids


@pytest.mark.parametrize("after_put", [False, True], ids=["reserved", "queued"])
def test_a_request_that_nobody_saw_through_is_done_under_its_ids(
    site, monkeypatch, after_put
) -> None:
    ids = abandoned(site, monkeypatch, after_put=after_put)
    answer = again(site)
    assert (answer.status_code, answer.json["id"]) == (202, ids[0])
    assert again(site).headers["Idempotency-Replayed"] == "true"
    assert site.listed() == ids
    site.run(ids[0])


def test_a_job_that_was_withdrawn_meanwhile_gets_another_id(site, monkeypatch) -> None:
    ids = abandoned(site, monkeypatch, after_put=True)
    record = site.store.get(ids[0])
    assert record is not None
    site.store.withdraw(record, "it could not be put on the queue")
    answer = again(site)
    assert answer.status_code == 202
    assert answer.json["id"] not in ids
    assert site.state(answer.json["id"]) == "Queued"
