"""How errors are told: to clients as plain text, below `/v1` as problem+json; to the log without
anything of the request."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from app.auth import LoginRequired, ScopeMissing
from app.limits import RateLimited
from app.v1 import problems
from app.v1.problems import Problem
from executors.errors import JobInvalid, JobQueueFull, JobTooLarge, QueueError

E = TypeVar("E", bound=Exception)

QUEUE_FULL_SECONDS = 5
"""What a client is told to wait for when the queue is full."""

_MAX_DISCARDED = 64 * 1024 * 1024  # bytes of a refused body that are read before the refusal

_KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")
_REALM = 'realm="Authorization Required"'

logger = logging.getLogger(__name__)


def add_error_handlers(app: Flask) -> None:
    """From now on, for every route of `app`."""
    register = app.register_error_handler
    register(LoginRequired, _told(login_required, problems.login_required))
    register(ScopeMissing, _told(scope_missing, problems.scope_missing))
    register(RateLimited, _told(rate_limited, problems.rate_limited))
    register(JobInvalid, _told(job_invalid, problems.job_invalid))
    register(JobTooLarge, _told(job_too_large, problems.too_large))
    register(JobQueueFull, _told(queue_full, problems.queue_full))
    register(QueueError, _told(queue_failed, problems.unavailable))
    register(RequestEntityTooLarge, _told(body_too_large, problems.body_too_large))
    register(HTTPException, _told(http_error, problems.of_http))
    register(Exception, _told(unexpected, problems.internal))


def _told(
    plainly: Callable[[E], Response], as_problem: Callable[[E], Problem]
) -> Callable[[E], Response]:
    """The one answer, or below `/v1` the other one with the first one's headers."""

    def tell(error: E) -> Response:
        answer = plainly(error)
        if not problems.concerned():
            return answer
        told = as_problem(error).response()
        told.headers.extend(header for header in answer.headers if header[0] in _KEPT_HEADERS)
        return told

    return tell


def text(message: str, status: int, **headers: str) -> Response:
    """A plain-text answer."""
    return Response(message, status, headers, content_type="text/plain; charset=utf-8")


def login_required(error: LoginRequired) -> Response:
    """401, in the words that clients know; with a second challenge for who tried a bearer's key."""
    answer = Response(status=401)
    answer.headers.add("WWW-Authenticate", f"Basic {_REALM}")
    if request.headers.get("Authorization", "").lower().startswith("bearer"):
        answer.headers.add("WWW-Authenticate", f'Bearer {_REALM}, error="invalid_token"')
    return answer


def scope_missing(error: ScopeMissing) -> Response:
    """403, naming the scope."""
    return text(f"Forbidden: {error}", 403)


def rate_limited(error: RateLimited) -> Response:
    """429, with the time after which the next try may succeed."""
    return text(f"Too many requests: {error}", 429, **{"Retry-After": str(error.retry_after)})


def queue_full(error: JobQueueFull) -> Response:
    """503: nothing is wrong with the job; the client may send it again, later."""
    logger.warning("A job was refused: the queue is full.")
    again = {"Retry-After": str(QUEUE_FULL_SECONDS)}
    return text("Service unavailable: the queue is full; try again later", 503, **again)


def job_invalid(error: JobInvalid) -> Response:
    """400, with the path of what is wrong in a header of its own."""
    answer = text(str(error), 400)
    if error.field:
        answer.headers["X-Hades-Field"] = error.field
    return answer


def job_too_large(error: JobTooLarge) -> Response:
    """413: the body was within its limit, the message that it becomes is not."""
    why = str(error) or "the job does not fit into one message"
    return text(f"Request body too large: {why}", 413)


def body_too_large(error: RequestEntityTooLarge) -> Response:
    """413, heard also by clients that send all of their body before they listen."""
    _discard_body()
    limit = request.max_content_length
    return text(f"Request body too large: the limit is {limit} bytes", 413)


def _discard_body() -> None:
    """Only from servers that know where the body ends, as gunicorn does."""
    if not request.environ.get("wsgi.input_terminated"):
        return
    stream, left = request.environ["wsgi.input"], _MAX_DISCARDED
    with suppress(Exception):  # the client may have gone, or send nonsense
        while left > 0 and (chunk := stream.read(min(left, 64 * 1024))):
            left -= len(chunk)


def queue_failed(error: QueueError) -> Response:
    """500, in the words that clients know; they may send the job again."""
    logger.error("A job could not be put on the queue: %s.", _kinds(error))
    return text("Failed to enqueue job", 500)


def http_error(error: HTTPException) -> Response:
    """Flask's own refusals: no such route, not with this method, and so on."""
    if isinstance(error, NotFound):
        return text("404 page not found", 404)
    answer = text(f"{error.code} {error.name.lower()}", error.code or 500)
    answer.headers.extend(h for h in error.get_headers() if h[0] == "Allow")
    return answer


def unexpected(error: Exception) -> Response:
    """500. The log says what and where; an exception's text may hold a part of the job."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %r failed: %s\n%s", request.method, request.path, _kinds(error), frames)
    return text("500 internal server error", 500)


def _kinds(error: BaseException | None) -> str:
    """The types of the exception and of what caused it."""
    kinds = []
    while error is not None:
        kinds.append(type(error).__name__)
        error = error.__cause__
    return ", caused by ".join(kinds)
