"""The images that steps ask for: what the Engine has is used, what it lacks is pulled."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from executors.deadline import Deadline
from executors.docker.errors import engine_errors, explain
from executors.errors import ImageUnavailable


class Images:
    """Shared by all workspaces of one Engine, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulls: dict[str, Future[None]] = {}

    def find(self, api: APIClient, image: str, deadline: Deadline) -> dict[str, Any]:
        """What the Engine knows about `image`, after pulling it if need be.

        Raises ImageUnavailable, InfrastructureError, and TimeoutError when `deadline` is over
        before the pull is: that one goes on, for those who ask later.
        """
        if not image:
            raise ImageUnavailable(image, "no image is named")
        found = inspect(api, image)
        while found is None:
            self._pull(api, image).result(deadline.left())
            found = inspect(api, image)
        return found

    def _pull(self, api: APIClient, image: str) -> Future[None]:
        """The pull of `image` that is under way, or a new one."""
        with self._lock:
            if image not in self._pulls:
                self._pulls[image] = Future()
                threading.Thread(
                    target=self._run_pull, args=(api, image), name=f"pull {image}", daemon=True
                ).start()
            return self._pulls[image]

    def _run_pull(self, api: APIClient, image: str) -> None:
        """Settles the future, whatever happens."""
        error: BaseException | None = None
        try:
            if inspect(api, image) is None:  # else a pull ended just before this one was asked for
                pull(api, image)
        except BaseException as caught:
            error = caught
        with self._lock:
            pending = self._pulls.pop(image)
        if error is None:
            pending.set_result(None)
        else:
            pending.set_exception(error)


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


def pull(api: APIClient, image: str) -> None:
    """Raises ImageUnavailable, with the registry's words, also when they come inside the stream."""
    repository, tag = parse_repository_tag(image)
    with engine_errors(f"pulling image {image}"):
        try:
            progress = api.pull(repository, tag or "latest", stream=True, decode=True)
            errors = [line["error"] for line in progress if "error" in line]
        except APIError as error:
            raise ImageUnavailable(image, explain(error)) from error
    if errors:
        raise ImageUnavailable(image, errors[-1])
