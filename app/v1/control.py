"""Stopping jobs, one or many, and trying one again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for

from app.index.query import Filter
from app.index.rows import summary
from app.limits import charge
from app.v1 import problems
from app.v1.details import known
from app.v1.parameters import filter_in_body, only, read_body
from app.v1.problems import Refused
from app.v1.services import Services
from brokers.records import JobRecord
from executors.job import Job, JobState
from executors.redaction import MASK
from executors.schema import load_job

REASON = "stopped by request"
CATCH_UP_SECONDS = 5.0
AT_ONCE = 8
"""Jobs of one request that are being stopped at the same time."""


def add_control(blueprint: Blueprint, services: Services) -> None:
    """The routes."""

    @blueprint.post("/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        record = services.queue.stop(job_id, REASON) or known(services, job_id)
        if record.state is not JobState.STOPPED:
            raise Refused(problems.is_over(record.state))
        return jsonify(record.to_dict())

    @blueprint.post("/jobs/cancel")
    def cancel_some() -> Response:
        only(())
        wanted = filter_in_body(read_body(jobs=0))
        if services.index.catch_up(CATCH_UP_SECONDS) != 0:
            raise Refused(problems.away("the index does not know of all jobs yet"))
        ids = list(_stop_all(services, wanted))
        return jsonify(stopped=len(ids), ids=ids)

    @blueprint.post("/jobs/<job_id>/retry")
    def retry(job_id: str) -> Response:
        only(())
        record = known(services, job_id)
        if not record.state.final:
            raise Refused(problems.not_over(record.state))
        charge()
        job = replace(_again(services, record), submitted_by=record.submitted_by)
        queued = services.queue.retry(job)
        if queued is None:
            raise Refused(problems.not_over(known(services, job_id).state))
        answer = jsonify(summary(queued.to_dict()))
        answer.status_code = 202
        answer.headers["Location"] = url_for("v1.job", job_id=job_id)
        return answer


def _stop_all(services: Services, wanted: Filter) -> Iterator[str]:
    """The ids of those that were stopped. Raises QueueError, after some of them."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ids in services.index.every_id(wanted):
            stopped = pool.map(lambda job_id: _stop_one(services, wanted, job_id), ids)
            yield from (job_id for job_id, done in zip(ids, stopped, strict=True) if done)


def _stop_one(services: Services, wanted: Filter, job_id: str) -> bool:
    """Whether it was; not when it has left the states that are meant since the index was asked."""
    if len(wanted.states) == 1:
        record = services.records.get(job_id)
        if record is None or record.state not in wanted.states:
            return False
    return services.queue.stop(job_id, REASON) is not None


def _again(services: Services, record: JobRecord) -> Job:
    """The job as it was submitted: sent again, or as it is kept when that is all of it."""
    shown = services.queue.shown(record.id)
    if request.content_length or request.headers.get("Transfer-Encoding"):
        job = load_job(read_body(jobs=0), job_id=record.id)
        given = services.queue.without_secrets(replace(job, submitted_by=record.submitted_by))
        differing = _differences(record, job) if shown is None else [*_unlike("", shown, given)]
        if differing:
            raise Refused(problems.another_job(differing))
        return job
    if shown is None:
        raise Refused(problems.payload_gone(record.id))
    if missing := list(_masked("", shown)):
        raise Refused(problems.secrets_gone(missing))
    return Job.from_dict(shown)


def _differences(record: JobRecord, job: Job) -> list[str]:
    """Fields by which the job sent is not the one that the record is about; it says little."""
    found = ["name"] if job.name != record.name else []
    if len(job.steps) != len(record.steps):
        return [*found, "steps"]
    return found + [
        f"steps[{index}].image"
        for index, (step, before) in enumerate(zip(job.steps, record.steps, strict=True))
        if step.image != before.image
    ]


def _unlike(path: str, before: Any, now: Any) -> Iterator[str]:
    """Paths of fields that are not what they were. Of what was masked, nothing is known."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before.keys() | now.keys():
            yield from _unlike(f"{path}.{key}" if path else str(key), before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _unlike(f"{path}[{index}]", old, new)
    elif before != now:
        yield path


def _masked(path: str, value: Any) -> Iterator[str]:
    """Paths of what is not there any more as it was."""
    if isinstance(value, str) and MASK in value:
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _masked(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, inner in enumerate(value):
            yield from _masked(f"{path}[{index}]", inner)
