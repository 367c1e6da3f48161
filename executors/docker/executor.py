"""The executor: opens workspaces in one Engine, and clears up after workers that were lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from executors.base import LABEL_JOB_ID, Executor, Workspace
from executors.docker import leftovers
from executors.docker.client import Client
from executors.docker.errors import engine_errors
from executors.docker.workspace import DockerWorkspace
from executors.errors import ExecutorUnavailable, InfrastructureError
from executors.job import Job
from executors.settings import DockerSettings


class DockerExecutor(Executor):
    """Containers of one Engine, for many jobs at once."""

    name = "docker"

    def __init__(self, settings: DockerSettings, worker: str) -> None:
        """Nothing is asked of the Engine before the first job or check."""
        self.settings = settings
        self.worker = worker
        self.client = Client(settings.host)

    def check(self) -> None:
        """One question to the Engine."""
        try:
            with engine_errors(f"asking {self.settings.host}"):
                self.client.api.ping()
        except InfrastructureError as error:
            raise ExecutorUnavailable(f"no Docker Engine can be used: {error}") from error

    @contextmanager
    def open(self, job: Job, attempt: int) -> Iterator[Workspace]:
        """One volume; it goes when the block is left."""
        if attempt > 1:
            self.reap(job.id)
        workspace = DockerWorkspace(self.client, self.settings, self.worker, job, attempt)
        try:
            workspace.create()
            yield workspace
        finally:
            workspace.remove()

    def reap(self, job_id: str) -> None:
        """By label, so of any worker that uses this Engine."""
        api = self.client.api
        with engine_errors("removing what earlier attempts left"):
            leftovers.remove_labelled(api, {LABEL_JOB_ID: job_id})

    def close(self) -> None:
        """The next use connects anew."""
        self.client.close()
