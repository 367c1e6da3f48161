"""The log manager's routes, in the seed's JSON, and the live stream of a job's log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from brokers.job_store import JobStore
from brokers.log_reader import LogMessage, LogReader, as_slots
from brokers.nats.errors import ConnectionClosed, ConnectionFailed
from brokers.records import JobRecord

_SEQUENCE = re.compile("[0-9]{1,18}")
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def logs_blueprint(store: JobStore, reader: LogReader) -> Blueprint:
    """GET /jobs, /jobs/<id>/logs, /jobs/<id>/logs/stream, /jobs/<id>/status, /health."""
    blueprint = Blueprint("logs", __name__)
    for error in (ConnectionClosed, ConnectionFailed):
        blueprint.register_error_handler(error, _unavailable)

    @blueprint.get("/jobs")
    def list_jobs() -> Response:
        return jsonify(jobs=store.ids())

    @blueprint.get("/jobs/<job_id>/logs")
    def job_logs(job_id: str) -> Response:
        return jsonify(logs=as_slots(reader.read(job_id)))

    @blueprint.get("/jobs/<job_id>/status")
    def job_status(job_id: str) -> Response | tuple[Response, int]:
        record = store.get(job_id)
        if record is None:
            return _unknown(job_id)
        return jsonify(status=record.state)

    @blueprint.get("/jobs/<job_id>/logs/stream")
    def job_stream(job_id: str) -> Response | tuple[Response, int]:
        record = store.get(job_id)
        if record is None:
            return _unknown(job_id)
        frames = reader.follow(job_id, after=_last_event_id())
        return Response(_events(record, frames), mimetype="text/event-stream", headers=_SSE_HEADERS)

    @blueprint.get("/health")
    def health() -> Response:
        return jsonify(status="ok")

    return blueprint


def _last_event_id() -> int:
    """What a client says that comes back; 0 when it says nothing, or nonsense."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if _SEQUENCE.fullmatch(text) else 0


def _unavailable(error: Exception) -> tuple[Response, int]:
    return jsonify(error="log service unavailable"), 503


def _unknown(job_id: str) -> tuple[Response, int]:
    return jsonify(error=f"job not found: {job_id}"), 404


def _events(record: JobRecord, items: Iterator[LogMessage | JobRecord | None]) -> Iterator[str]:
    for item in items:
        if item is None:
            yield ": ping\n\n"
        elif isinstance(item, JobRecord):
            yield _frame(_job_frame(item))
        else:
            yield f"id: {item.sequence}\n{_frame(_log_frame(item, record.step_names))}"


def _frame(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _job_frame(record: JobRecord) -> dict[str, Any]:
    job: dict[str, Any] = {"id": record.id, "status": record.state}
    if record.reason:
        job["reason"] = record.reason
    return {"type": "job", "job": job}


def _log_frame(message: LogMessage, names: tuple[str, ...]) -> dict[str, Any]:
    name = names[message.step] if message.step < len(names) else ""
    return {
        "type": "log",
        "job": {"id": message.body["job_id"], "status": ""},
        "log": message.body,
        "step": {"index": message.step, "name": name, "attempt": message.attempt},
    }
