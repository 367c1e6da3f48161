"""Errors below `/v1`, as problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.auth import LoginRequired, ScopeMissing
from app.limits import RateLimited
from executors.errors import JobInvalid, JobQueueFull, JobTooLarge

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:hades:problem:"
RETRY_SECONDS = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One error as clients see it."""

    kind: str
    """Ends the type's URN; empty: the status says all."""
    status: int
    title: str
    """The same for all problems of the kind."""
    detail: str = ""
    """What is wrong this time."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further members."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As its JSON says it."""
        told = {
            "type": PREFIX + self.kind if self.kind else "about:blank",
            "title": self.title,
            "status": self.status,
        }
        return told | ({"detail": self.detail} if self.detail else {}) | dict(self.more)

    def response(self) -> Response:
        """The answer."""
        body = json.dumps(self.to_dict())
        return Response(body, self.status, dict(self.headers), content_type=MEDIA_TYPE)


class Refused(Exception):
    """Ends a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


def concerned() -> bool:
    """Whether the request is one below `/v1`."""
    return request.path == "/v1" or request.path.startswith("/v1/")


def of_http(error: HTTPException) -> Problem:
    """Flask's own refusals: no such route, not with this method, and so on."""
    return Problem(kind="", status=error.code or 500, title=error.name)


def login_required(error: LoginRequired) -> Problem:
    """401."""
    status = HTTPStatus.UNAUTHORIZED
    return Problem(kind="", status=status, title="Unauthorized", detail="send a key that is valid")


def scope_missing(error: ScopeMissing) -> Problem:
    """403, naming the scope."""
    return Problem(
        kind="scope-missing",
        status=HTTPStatus.FORBIDDEN,
        title="The key may not do this",
        detail=str(error),
        more={"scope": error.scope},
    )


def rate_limited(error: RateLimited) -> Problem:
    """429."""
    return Problem(
        kind="rate-limited",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        title="Too many jobs in too short a time",
        detail=str(error),
    )


def queue_full(error: JobQueueFull) -> Problem:
    """503: there is no room for the job at the moment."""
    return Problem(
        kind="queue-full",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        title="The queue is full",
        detail="send the request again later",
    )


def job_invalid(error: JobInvalid) -> Problem:
    """What is wrong with a submission, field by field."""
    errors = [{"field": path, "message": text} for path, text in error.problems]
    return Problem(
        kind="job-invalid",
        status=HTTPStatus.BAD_REQUEST,
        title="The job is invalid",
        detail=str(error),
        more={"errors": errors},
    )


def parameter_invalid(name: str, why: str) -> Problem:
    """Of the query, a header, or a body that is no job."""
    return Problem(
        kind="parameter-invalid",
        status=HTTPStatus.BAD_REQUEST,
        title="A parameter is invalid",
        detail=f"{name} {why}",
        more={"errors": [{"field": name, "message": why}]},
    )


def body_too_large(error: RequestEntityTooLarge) -> Problem:
    """413, naming the limit."""
    return _too_large(f"the limit is {request.max_content_length} bytes")


def too_large(error: JobTooLarge) -> Problem:
    """413: the body was within its limit, what it becomes is not."""
    return _too_large(str(error) or "the job does not fit into one message")


def _too_large(detail: str) -> Problem:
    return Problem(
        kind="too-large",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        title="The request is too large",
        detail=detail,
    )


def unavailable(error: Exception) -> Problem:
    """What the request needs is away for the moment."""
    return away("NATS does not answer; send the request again")


def away(detail: str) -> Problem:
    """503."""
    return Problem(
        kind="unavailable",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        title="The service is unavailable",
        detail=detail,
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def internal(error: Exception) -> Problem:
    """Nothing of what went wrong."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(kind="", status=status, title="Internal Server Error")


def unknown_job(job_id: str) -> Problem:
    """There is no record of it, or not any more."""
    return Problem(
        kind="unknown-job",
        status=HTTPStatus.NOT_FOUND,
        title="The job is not known",
        detail=f"there is no job {job_id[:100]}",
    )


def conflict(kind: str, title: str, detail: str, **more: Any) -> Problem:
    """409: not in the state that the job, or the request, is in."""
    return Problem(kind=kind, status=HTTPStatus.CONFLICT, title=title, detail=detail, more=more)


def not_over(state: str) -> Problem:
    """The job has no end yet."""
    return conflict("not-over", "The job is not over", f"the job is {state}", state=state)


def is_over(state: str) -> Problem:
    """The job has another end than the one that is asked for."""
    return conflict("over", "The job is over", f"the job has ended as {state}", state=state)


def payload_gone(job_id: str) -> Problem:
    """Only the record is left of the job."""
    detail = f"what job {job_id} was submitted with is not kept any more"
    return conflict("payload-gone", "The job as it was submitted is gone", detail)


def secrets_gone(paths: Sequence[str]) -> Problem:
    """The job can be tried again only by who knows its secrets."""
    return conflict(
        "secrets-gone",
        "The secrets of the job are gone",
        "send the job again in the body: its secrets were removed when it ended",
        errors=[{"field": path, "message": "is not kept"} for path in paths],
    )


def another_job(paths: Sequence[str]) -> Problem:
    """What was sent to be tried again is not the job that was submitted."""
    return Problem(
        kind="another-job",
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        title="The body is another job",
        detail="send the job as it was submitted, or submit this one as a new job",
        more={"errors": [{"field": path, "message": "differs from the job"} for path in paths]},
    )
