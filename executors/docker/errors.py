"""The exceptions of the docker SDK, and of what it stands on, become ours here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from docker.errors import APIError, DockerException
from requests.exceptions import ReadTimeout, RequestException
from urllib3.exceptions import HTTPError, ReadTimeoutError

from executors.errors import ExecutorUnavailable, InfrastructureError, StepRefused
from executors.resources import exhausted

ENGINE_ERRORS = (DockerException, RequestException, HTTPError, OSError)
"""Whatever a call to the Engine may raise."""
_UNAVAILABLE = 503
_CGROUPS = re.compile(
    "apply(ing)? cgroup configuration|no cgroup mount|cgroup mountpoint does not exist",
    re.IGNORECASE,
)
"""What runc says where it can start nothing; a limit that it can't set is another matter."""


@contextmanager
def engine_errors(doing: str, *, refused: type[StepRefused] | None = None) -> Iterator[None]:
    """An Engine's error inside the block becomes InfrastructureError, with its cause;
    ExecutorUnavailable when any other request would fare no better.

    With `refused`, an answer that blames the request (4xx) becomes that instead: the place for
    calls whose arguments come from the job.
    """
    try:
        yield
    except ENGINE_ERRORS as error:
        if breaks_everything(error):
            raise ExecutorUnavailable(f"{doing}: {explain(error)}") from error
        if refused is not None and blames_request(error):
            raise refused(explain(error)) from error
        raise InfrastructureError(f"{doing}: {explain(error)}") from error


def breaks_everything(error: BaseException) -> bool:
    """Whether the Engine did not answer at all, or said that it can start nothing at present."""
    if isinstance(error, APIError):
        words = explain(error)
        full = exhausted(words) or _CGROUPS.search(words) is not None
        return full or error.status_code == _UNAVAILABLE
    unreached = (RequestException, HTTPError, OSError)
    return isinstance(error, unreached) or isinstance(error.__cause__, unreached)


def timed_out(error: RequestException) -> bool:
    """Whether the answer, or its rest, did not come in time: requests tells the two apart."""
    return isinstance(error, ReadTimeout) or any(
        isinstance(reason, ReadTimeoutError) for reason in error.args
    )


def blames_request(error: BaseException) -> bool:
    """Whether the Engine answered, and answered that the request was at fault."""
    return isinstance(error, APIError) and bool(error.is_client_error())


def explain(error: BaseException) -> str:
    """The Engine's own words where it had any."""
    told = error.explanation if isinstance(error, APIError) else None
    return str(told or error)
