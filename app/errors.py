"""How errors are told: to clients as plain text, below `/v1` as problem+json; and to the log without
anything of the request."""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from app.v1 import problems
from executors.errors import JobInvalid, JobTooLarge, QueueError

_MAX_DISCARDED = 64 * 1024 * 1024  # bytes of a refused body that are read before the refusal

logger = logging.getLogger(__name__)


def add_error_handlers(app: Flask) -> None:
    """From now on, for every route of `app`."""
    app.register_error_handler(JobInvalid, job_invalid)
    app.register_error_handler(JobTooLarge, job_too_large)
    app.register_error_handler(QueueError, queue_failed)
    app.register_error_handler(RequestEntityTooLarge, body_too_large)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unexpected)


def text(message: str, status: int, **headers: str) -> Response:
    """A plain-text answer."""
    return Response(message, status, headers, content_type="text/plain; charset=utf-8")


def job_invalid(error: JobInvalid) -> Response:
    """400, with the path of what is wrong in a header of its own."""
    if problems.concerned():
        return problems.job_invalid(error).response()
    answer = text(str(error), 400)
    if error.field:
        answer.headers["X-Hades-Field"] = error.field
    return answer


def job_too_large(error: JobTooLarge) -> Response:
    """413: the body was within its limit, the message that it becomes is not."""
    why = str(error) or "the job does not fit into one message"
    if problems.concerned():
        return problems.too_large(why).response()
    return text(f"Request body too large: {why}", 413)


def body_too_large(error: RequestEntityTooLarge) -> Response:
    """413, heard also by clients that send all of their body before they listen."""
    _discard_body()
    why = f"the limit is {request.max_content_length} bytes"
    if problems.concerned():
        return problems.too_large(why).response()
    return text(f"Request body too large: {why}", 413)


def _discard_body() -> None:
    """Only from servers that know where the body ends, as gunicorn does."""
    if not request.environ.get("wsgi.input_terminated"):
        return
    stream, left = request.environ["wsgi.input"], _MAX_DISCARDED
    with suppress(Exception):  # the client may have gone, or send nonsense
        while left > 0 and (chunk := stream.read(min(left, 64 * 1024))):
            left -= len(chunk)


def queue_failed(error: QueueError) -> Response:
    """500, in the words that clients know; they may send the job again. Below `/v1`: 503."""
    logger.error("A job could not be put on the queue: %s.", _kinds(error))
    if problems.concerned():
        return problems.unavailable().response()
    return text("Failed to enqueue job", 500)


def http_error(error: HTTPException) -> Response:
    """Flask's own refusals: no such route, not with this method, and so on."""
    if problems.concerned():
        return problems.of_http(error).response()
    if isinstance(error, NotFound):
        return text("404 page not found", 404)
    answer = text(f"{error.code} {error.name.lower()}", error.code or 500)
    answer.headers.extend(h for h in error.get_headers() if h[0] == "Allow")
    return answer


def unexpected(error: Exception) -> Response:
    """500. The log says what and where; an exception's text may hold a part of the job."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %r failed: %s\n%s", request.method, request.path, _kinds(error), frames)
    if problems.concerned():
        return problems.internal().response()
    return text("500 internal server error", 500)


def _kinds(error: BaseException | None) -> str:
    """The types of the exception and of what caused it."""
    kinds = []
    while error is not None:
        kinds.append(type(error).__name__)
        error = error.__cause__
    return ", caused by ".join(kinds)
