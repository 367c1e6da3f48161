"""Where a job comes in: `POST /build`.

What is refused is refused in this order: who calls (401, 403), how much he sends (413), how often
(429), what (400), and at last that there is no room for it (503). So nobody learns more than he
may, and what costs more is done later.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Protocol
from uuid import uuid4

from flask import Blueprint, Request, Response, request
from werkzeug.exceptions import BadRequest, HTTPException

from app.auth import caller
from app.limits import charge
from executors.errors import JobInvalid
from executors.job import Job
from executors.schema import load_job

_ACCEPTED = '{"job_id":"%s","message":"Successfully enqueued job"}\n'
_MAX_DIGITS = 30  # of a number that is still of interest


class Queue(Protocol):
    """Where jobs go."""

    def put(self, job: Job) -> object:
        """Returns when the job is safe. Raises executors.errors.QueueError."""


def build_blueprint(queue: Queue) -> Blueprint:
    """The route, putting its jobs on `queue`."""
    blueprint = Blueprint("build", __name__)

    @blueprint.post("/build")
    def build() -> Response:
        job = load_job(read_json(request, jobs=1), job_id=str(uuid4()))
        job = replace(job, submitted_by=caller().name)
        queue.put(job)
        return Response(_ACCEPTED % job.id, content_type="application/json")

    return blueprint


def read_json(request: Request, *, jobs: int) -> Any:
    """The decoded body, for which the caller is charged so many jobs.

    Raises RateLimited, JobInvalid, or werkzeug's 413 or 400 when it can't be read.
    """
    body = _read(request)
    charge(jobs)
    if request.content_type != "application/json" and not _may_be_json(request.mimetype):
        raise JobInvalid(_unexpected_type(request))
    try:
        return _decode(body.decode())
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1} is not UTF-8"
    except json.JSONDecodeError as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    if request.mimetype == "application/x-www-form-urlencoded":
        raise JobInvalid(_unexpected_type(request))
    raise JobInvalid(f"Invalid JSON body: {why}")


def _read(request: Request) -> bytes:
    try:
        body = request.get_data(cache=False)
        if request.content_length is None:
            request.stream.read(1)  # a chunked body is cut at the limit, and only this says so
        return body
    except HTTPException:
        raise
    except Exception as error:  # the server's own, of any type: its framing is broken
        raise BadRequest from error


def _may_be_json(mimetype: str) -> bool:
    """Also what clients send that name no type, or do not think of it."""
    known = ("", "text/plain", "application/x-www-form-urlencoded")
    return mimetype in known or mimetype.endswith(("/json", "+json"))


def _unexpected_type(request: Request) -> str:
    return f"Invalid JSON body (Content-Type {request.mimetype[:100]}: send application/json)"


def _parse_int(digits: str) -> int | float:
    """Python refuses to convert the longest; as a float they are refused with their field."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float("inf")


_decode = json.JSONDecoder(parse_int=_parse_int).decode
