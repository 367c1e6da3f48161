"""`POST /v1/jobs`: one job, or up to 1,000 of them in one request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, jsonify, request, url_for

from app.auth import caller
from app.index.rows import summary
from app.limits import charge
from app.v1.accepting import Accepted, accept
from app.v1.parameters import only, read_body, refuse, whole_number
from app.v1.problems import Problem, job_invalid
from app.v1.services import Services
from brokers.records import JobRecord
from executors.errors import JobInvalid
from executors.job import Job
from executors.schema import load_job

MAX_BATCH = 1_000
MAX_WAIT_SECONDS = 60
REPLAYED = "Idempotency-Replayed"

_KEY = re.compile(r"[!-~]{1,255}")


def add_submission(blueprint: Blueprint, services: Services) -> None:
    """The route."""

    @blueprint.post("/jobs")
    def submit() -> Response:
        only(("wait",))
        wait, key = whole_number("wait", 0, 0, MAX_WAIT_SECONDS), _idempotency_key()
        body, name = read_body(jobs=1), caller().name
        if not _is_batch(body):
            job = replace(load_job(body, job_id=str(uuid4())), submitted_by=name)
            return _one(services, accept(services, [job], name, key, body), wait)
        if wait:
            raise refuse("wait", "is for one job, not for many")
        sent = _jobs_of(body)
        charge(len(sent) - 1)
        items = [_load(item, name) for item in sent]
        jobs = [item for item in items if isinstance(item, Job)]
        return _many(items, accept(services, jobs, name, key, body))


def _idempotency_key() -> str:
    """Empty: there is none."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise refuse("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return key or ""


def _is_batch(body: Any) -> bool:
    return isinstance(body, Mapping) and "jobs" in body and "steps" not in body


def _jobs_of(body: Mapping[str, Any]) -> list[Any]:
    jobs = body["jobs"]
    if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_BATCH:
        raise refuse("jobs", f"must be a list of 1 to {MAX_BATCH} jobs")
    return jobs


def _load(item: Any, name: str) -> Job | Problem:
    try:
        return replace(load_job(item, job_id=str(uuid4())), submitted_by=name)
    except JobInvalid as error:
        return job_invalid(error)


def _one(services: Services, accepted: Accepted, wait: int) -> Response:
    (job_id,) = accepted.ids
    ended = _await_end(services, job_id, wait) if wait else None
    if ended is not None:
        answer = jsonify(ended.to_dict())
    else:
        answer = jsonify(_brief(services, accepted, job_id))
        answer.status_code = 202
    answer.headers["Location"] = url_for("v1.job", job_id=job_id)
    return _marked(answer, accepted)


def _await_end(services: Services, job_id: str, seconds: int) -> JobRecord | None:
    """None also at once, when so many wait already that the others would be kept waiting."""
    with services.waiters.one_more() as admitted:
        return services.watch.until_final(job_id, seconds) if admitted else None


def _brief(services: Services, accepted: Accepted, job_id: str) -> dict[str, Any]:
    record = accepted.records.get(job_id) or services.records.get(job_id)
    return summary(record.to_dict()) if record is not None else {"id": job_id}


def _many(items: list[Job | Problem], accepted: Accepted) -> Response:
    ids, results = iter(accepted.ids), list[dict[str, Any]]()
    for item in items:
        if isinstance(item, Problem):
            results.append({"status": item.status, "problem": item.to_dict()})
        else:
            results.append({"status": 202, "id": next(ids)})
    answer = jsonify(results=results)
    answer.status_code = 202
    return _marked(answer, accepted)


def _marked(answer: Response, accepted: Accepted) -> Response:
    if accepted.replayed:
        answer.headers[REPLAYED] = "true"
    return answer
