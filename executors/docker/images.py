"""The images that steps ask for: what the Engine has is used, what it lacks is pulled."""

from __future__ import annotations

from functools import partial
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from executors.deadline import Deadline
from executors.docker.api import EngineClient
from executors.docker.errors import breaks_everything, engine_errors, explain
from executors.errors import ExecutorUnavailable, ImageUnavailable
from executors.pulls import Abandoned, GivenUp, Pulls
from executors.resources import exhausted
from executors.stopping import Stopping


class Images:
    """Shared by all workspaces of one Engine, from many threads."""

    def __init__(self) -> None:
        self._pulls = Pulls[None]()

    def find(
        self, api: EngineClient, image: str, deadline: Deadline, stopping: Stopping
    ) -> dict[str, Any]:
        """What the Engine knows about `image`, after pulling it if need be.

        Raises ImageUnavailable, InfrastructureError, Stopped, and TimeoutError when `deadline` is
        over before the pull is.
        """
        if not image:
            raise ImageUnavailable(image, "no image is named")
        found = inspect(api, image)
        while found is None:
            self._pulls.get(image, partial(pull_if_missing, api, image), deadline, stopping)
            found = inspect(api, image)
        return found


def inspect(api: APIClient, image: str) -> dict[str, Any] | None:
    """None when the Engine does not have it. Raises ImageUnavailable for a name that is none."""
    with engine_errors(f"looking for image {image}"):
        try:
            found: dict[str, Any] = api.inspect_image(image)
        except NotFound:
            return None
        except APIError as error:
            if error.is_client_error():
                raise ImageUnavailable(image, explain(error)) from error
            raise
    return found


def pull_if_missing(api: EngineClient, image: str, abandoned: Abandoned) -> None:
    """It is here when another pull ended just before this one was asked for."""
    if inspect(api, image) is None:
        pull(api, image, abandoned)


def pull(api: EngineClient, image: str, abandoned: Abandoned) -> None:
    """Raises ImageUnavailable, with the registry's words, also when they come inside the stream;
    GivenUp.
    """
    repository, tag = parse_repository_tag(image)
    errors: list[str] = []
    with engine_errors(f"pulling image {image}"):
        try:
            with api.pulling(repository, tag or "latest") as progress:
                for line in progress:
                    if abandoned():
                        raise GivenUp
                    errors += [line["error"]] if "error" in line else []
        except APIError as error:
            if breaks_everything(error):
                raise
            raise ImageUnavailable(image, explain(error)) from error
    if errors and exhausted(errors[-1]):
        raise ExecutorUnavailable(f"pulling image {image}: {errors[-1]}")
    if errors:
        raise ImageUnavailable(image, errors[-1])
