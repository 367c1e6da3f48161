"""The exceptions of the docker SDK, and of what it stands on, become ours here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from executors.errors import InfrastructureError, StepRefused

ENGINE_ERRORS = (DockerException, RequestException, HTTPError, OSError)
"""Whatever a call to the Engine may raise."""


@contextmanager
def engine_errors(doing: str, *, refused: type[StepRefused] | None = None) -> Iterator[None]:
    """An Engine's error inside the block becomes InfrastructureError, with its cause.

    With `refused`, an answer that blames the request (4xx) becomes that instead: the place for
    calls whose arguments come from the job.
    """
    try:
        yield
    except ENGINE_ERRORS as error:
        if refused is not None and blames_request(error):
            raise refused(explain(error)) from error
        raise InfrastructureError(f"{doing}: {explain(error)}") from error


def blames_request(error: BaseException) -> bool:
    """Whether the Engine answered, and answered that the request was at fault."""
    return isinstance(error, APIError) and bool(error.is_client_error())


def explain(error: BaseException) -> str:
    """The Engine's own words where it had any."""
    told = error.explanation if isinstance(error, APIError) else None
    return str(told or error)
