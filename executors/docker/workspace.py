"""An attempt in the Engine: what is asked for each step, and in which order."""

from __future__ import annotations

import io
import logging
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from executors.base import Sink, StepResult, Workspace
from executors.deadline import Deadline, killed_after
from executors.docker import convert, leftovers, output
from executors.docker.client import Client
from executors.docker.errors import (
    ENGINE_ERRORS,
    blames_request,
    breaks_everything,
    engine_errors,
    explain,
    timed_out,
)
from executors.docker.owners import Owner
from executors.errors import LimitUnsupported, StepRefused
from executors.job import SHARED_DIR, Job, Step
from executors.pulls import out_of_time, too_slow
from executors.settings import DockerSettings
from executors.stopping import Stopping

KILL_GRACE = 30.0
"""Seconds after the kill until a container that does not end counts as the machine's failure."""
STOP_GRACE = 5.0
"""Seconds after a stop until nobody listens any more to a container that does not end."""
GLANCE = 10
"""Seconds between two looks whether a silent container's step was stopped."""
KILLED = 137

logger = logging.getLogger(__name__)


class DockerWorkspace(Workspace):
    """One volume, and at most one container at a time."""

    def __init__(
        self, client: Client, settings: DockerSettings, worker: str, job: Job, attempt: int
    ) -> None:
        self._client = client
        self._api: APIClient = client.api
        self._settings = settings
        self._job = job
        self._labels = convert.labels(job.id, attempt, worker, str(Owner.current()))
        self._volume = convert.volume_name(job.id, attempt)
        self._writable = False
        self._stopping = Stopping()

    def create(self) -> None:
        """Make `/shared`."""
        with engine_errors("creating the volume"):
            self._api.create_volume(self._volume, labels=self._labels)

    def remove(self) -> bool:
        """What cannot be removed now is logged, and left to those who look for it: False."""
        try:
            try:
                leftovers.remove_volume(self._api, self._volume)
            except APIError:  # in use: by a container of whose creation we never heard
                leftovers.remove_labelled(self._api, self._labels)
        except ENGINE_ERRORS:
            logger.exception("A volume could not be removed", extra={"job_id": self._job.id})
            return False
        return True

    def stop(self) -> None:
        """The kill is asked for by a thread of its own: the Engine may take its time."""
        self._stopping.stop()

    def prepare(self, step: Step, sink: Sink, timeout: float | None) -> None:
        """One question when the Engine has the image."""
        with self._stopping.heeded():
            self._config(step)
            try:
                self._image(step, Deadline(timeout))
            except TimeoutError as error:
                raise too_slow(step.image, timeout) from error

    def run_step(self, step: Step, sink: Sink, timeout: float | None) -> StepResult:
        """A fresh container; only the volume goes from step to step."""
        deadline = Deadline(timeout)
        with self._stopping.heeded():
            try:
                image = self._image(step, deadline)
            except TimeoutError:
                return out_of_time(step.image)
            with self._container(step) as container:
                sink.open(container)
                if runs_as_other_user(image):
                    self._make_writable(container)
                return self._run(container, sink, deadline)

    def _image(self, step: Step, deadline: Deadline) -> dict[str, Any]:
        return self._client.images.find(self._client.api, step.image, deadline, self._stopping)

    def _config(self, step: Step) -> dict[str, Any]:
        """Raises LimitUnsupported."""
        return convert.container_config(
            self._job,
            step,
            volume=self._volume,
            labels=self._labels,
            settings=self._settings,
            engine=self._client.engine,
        )

    @contextmanager
    def _container(self, step: Step) -> Iterator[str]:
        """Its id, before it is started; removed at the end."""
        config = self._config(step)
        check_network(self._api, step.network)
        with engine_errors("creating a container", refused=StepRefused):
            container: str = self._api.create_container_from_config(config)["Id"]
        try:
            yield container
        finally:
            self._remove_container(container)

    def _remove_container(self, container: str) -> None:
        try:
            leftovers.remove_container(self._api, container)
        except ENGINE_ERRORS:
            logger.exception("A container could not be removed", extra={"job_id": self._job.id})

    def _make_writable(self, container: str) -> None:
        """Open `/shared` to every user, once: the Engine makes it root's."""
        if not self._writable:
            with engine_errors("opening the volume to the image's user"):
                self._api.put_archive(container, "/", shared_for_everybody())
        self._writable = True

    def _run(self, container: str, sink: Sink, deadline: Deadline) -> StepResult:
        """From attaching to the exit code."""
        with engine_errors("running a container"):
            with (
                output.attached(self._api, container) as connection,
                self._ended_by_stop(container, connection),
            ):
                self._stopping.check()
                if refused := self._start(container):
                    return refused
                if self._stopping.requested:  # perhaps too early to be killed
                    self._kill(container)
                with killed_after(partial(self._kill, container), deadline) as killed:
                    output.copy(connection, sink, deadline, KILL_GRACE)
                    code = self._wait(container, deadline)
            if killed.is_set():
                return StepResult(exit_code=None, timed_out=True)
            return StepResult(exit_code=code, oom_killed=self._out_of_memory(container, code))

    @contextmanager
    def _ended_by_stop(self, container: str, connection: socket.socket) -> Iterator[None]:
        """A stop within the block kills the container, and in the end the wait for its output."""
        left = threading.Event()

        def end() -> None:
            self._kill(container)
            if not left.wait(STOP_GRACE):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

        def begin() -> None:
            threading.Thread(target=end, name=f"stop {container}", daemon=True).start()

        try:
            with self._stopping.ends(begin):
                yield
        finally:
            left.set()

    def _wait(self, container: str, deadline: Deadline) -> int:
        """Asks in pieces: an Engine that has gone silent must not hold a stopped attempt."""
        while True:
            self._stopping.check()
            left = deadline.left(KILL_GRACE)
            try:
                seconds = GLANCE if left is None else min(ceil(left), GLANCE)
                return int(self._api.wait(container, timeout=seconds)["StatusCode"])
            except RequestException as error:
                if not timed_out(error) or (left is not None and left <= GLANCE):
                    raise

    def _start(self, container: str) -> StepResult | None:
        """A result when the Engine could not execute what the image or the job names."""
        try:
            self._api.start(container)
        except APIError as error:
            ours = isinstance(error, NotFound) or breaks_everything(error)
            if ours or not blames_request(error):
                raise
            code = self._api.inspect_container(container)["State"]["ExitCode"]
            return StepResult(exit_code=code, reason=explain(error))
        return None

    def _kill(self, container: str) -> bool:
        """Whether it was still running; False also when the Engine does not answer."""
        try:
            self._api.kill(container, "SIGKILL")
        except ENGINE_ERRORS as error:
            logger.info(
                "A container could not be killed",
                extra={"job_id": self._job.id, "error": explain(error)},
            )
            return False
        return True

    def _out_of_memory(self, container: str, code: int) -> bool:
        return code == KILLED and bool(self._api.inspect_container(container)["State"]["OOMKilled"])


def runs_as_other_user(image: dict[str, Any]) -> bool:
    """Whether the image's processes are not root."""
    user = (image.get("Config") or {}).get("User") or "root"
    return user.partition(":")[0] not in ("root", "0")


def check_network(api: APIClient, network: str) -> None:
    """Raises LimitUnsupported for a name under which the Engine has no network to offer."""
    if network in convert.OWN_NETWORKS:
        return
    with engine_errors(f"looking for network {network}"):
        try:
            found = api.inspect_network(network)
        except NotFound:
            found = {}
    if found.get("Name") != network or found.get("Driver") == "host":
        raise LimitUnsupported("network", f"there is no network {network}")


def shared_for_everybody() -> bytes:
    """A tar with one entry: `/shared` with the rights of `/tmp`."""
    entry = tarfile.TarInfo(SHARED_DIR.strip("/"))
    entry.type = tarfile.DIRTYPE
    entry.mode = 0o1777
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(entry)
    return archive.getvalue()
