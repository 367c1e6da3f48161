"""One job: its record, and what it has led to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request

from app.v1 import problems
from app.v1.changes import change, changes
from app.v1.problems import Refused
from app.v1.services import Services
from brokers.log_reader import as_slots
from brokers.records import JobRecord

PING_SECONDS = 15.0
"""Silence on a stream after which it says that it is there."""

_REVISION = re.compile("[0-9]{1,18}")
_SSE = "text/event-stream"
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def add_details(blueprint: Blueprint, services: Services) -> None:
    """The routes."""

    @blueprint.get("/jobs/<job_id>")
    def job(job_id: str) -> Response:
        return jsonify(known(services, job_id).to_dict())

    @blueprint.get("/jobs/<job_id>/payload")
    def payload(job_id: str) -> Response:
        known(services, job_id)
        shown = services.queue.shown(job_id)
        if shown is None:
            raise Refused(problems.payload_gone(job_id))
        return jsonify(shown)

    @blueprint.get("/jobs/<job_id>/result")
    def result(job_id: str) -> Response:
        record = known(services, job_id)
        if not record.state.final:
            raise Refused(problems.not_over(record.state))
        return jsonify(outcome(record))

    @blueprint.get("/jobs/<job_id>/logs")
    def logs(job_id: str) -> Response:
        known(services, job_id)
        return jsonify(logs=as_slots(services.logs.read(job_id)))

    @blueprint.get("/jobs/<job_id>/events")
    def events(job_id: str) -> Response:
        history = services.records.history(job_id)
        if not history:
            raise Refused(problems.unknown_job(job_id))
        if request.accept_mimetypes.best_match(("application/json", _SSE)) != _SSE:
            return jsonify(events=list(changes(history)))
        if not services.waiters.enter():
            raise Refused(problems.away("too many clients wait here already"))
        frames = _frames(services, job_id, history, _last_event_id())
        answer = Response(frames, mimetype=_SSE, headers=_SSE_HEADERS)
        answer.call_on_close(services.waiters.leave)
        return answer


def known(services: Services, job_id: str) -> JobRecord:
    """The job's record; ends the request without one."""
    record = services.records.get(job_id)
    if record is None:
        raise Refused(problems.unknown_job(job_id))
    return record


def outcome(record: JobRecord) -> dict[str, Any]:
    """How a job ended, and how long everything took."""
    started = record.started_at or record.finished_at
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "reason": record.reason,
        "attempt": record.attempt,
        "queued_at": record.queued_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "queued_seconds": _seconds(record.queued_at, started),
        "run_seconds": _seconds(record.started_at, record.finished_at),
        "steps": [
            {**asdict(step), "run_seconds": _seconds(step.started_at, step.finished_at)}
            for step in record.steps
        ],
    }


def _seconds(begin: str, end: str) -> float | None:
    """None: one of both has not happened."""
    if not begin or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def _last_event_id() -> int:
    """What a client says that comes back; 0 when it says nothing, or nonsense."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if _REVISION.fullmatch(text) else 0


def _frames(
    services: Services, job_id: str, history: list[tuple[int, JobRecord]], seen: int
) -> Iterator[str]:
    """The history behind the revision `seen`, then each change, until the job is over."""
    for event in changes(history):
        if event["id"] > seen:
            yield _frame(event)
    revision, before = history[-1]
    if before.state.final:
        return
    for item in services.watch.follow(job_id, after=revision, idle=PING_SECONDS):
        if item is None:
            yield ": ping\n\n"
            continue
        revision, record = item
        yield _frame(change(revision, before, record))
        before = record


def _frame(event: dict[str, Any]) -> str:
    return f"id: {event['id']}\ndata: {json.dumps(event)}\n\n"
