"""The executor: opens workspaces in one Engine, and clears up after workers that were lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from executors.base import LABEL_ATTEMPT, LABEL_JOB_ID, LABEL_OWNER, Executor, Workspace
from executors.docker import leftovers
from executors.docker.client import Client
from executors.docker.errors import engine_errors
from executors.docker.owners import Owner
from executors.docker.workspace import DockerWorkspace
from executors.errors import ExecutorUnavailable, InfrastructureError
from executors.job import Job
from executors.resources import require_free
from executors.settings import DockerSettings


class DockerExecutor(Executor):
    """Containers of one Engine, for many jobs at once."""

    name = "docker"

    def __init__(self, settings: DockerSettings, worker: str) -> None:
        """Nothing is asked of the Engine before the first job or check."""
        self.settings = settings
        self.worker = worker
        self.client = Client(settings.host)
        self._unremoved: set[tuple[str, str]] = set()

    def check(self) -> None:
        """One question to the Engine, and one to its disk if that is this machine's."""
        try:
            self.client.ping()
            root_dir = self.client.engine.root_dir
        except InfrastructureError as error:
            raise ExecutorUnavailable(f"no Docker Engine can be used: {error}") from error
        if root_dir and self.settings.host.startswith("unix://") and Path(root_dir).is_dir():
            require_free(Path(root_dir), self.settings.min_free_disk)

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
            if not workspace.remove():
                self._unremoved.add((job.id, str(attempt)))

    def reap(self, job_id: str) -> None:
        """By label, so of any worker that uses this Engine."""
        api = self.client.api
        with engine_errors("removing what earlier attempts left"):
            leftovers.remove_labelled(api, {LABEL_JOB_ID: job_id})

    def reap_orphans(self) -> int:
        """What surely dead processes own, and what this one could not remove when it was time.

        What may belong to a living worker of another host or container stays.
        """
        ours, unremoved = str(Owner.current()), set(self._unremoved)

        def orphaned(labels: Mapping[str, str]) -> bool:
            if labels[LABEL_OWNER] == ours:
                return (labels.get(LABEL_JOB_ID), labels.get(LABEL_ATTEMPT)) in unremoved
            owner = Owner.parse(labels[LABEL_OWNER])
            return owner is not None and owner.surely_dead

        api = self.client.api
        with engine_errors("removing what dead workers left"):
            removed, failed = leftovers.remove_orphans(api, orphaned)
        if not failed:
            self._unremoved -= unremoved
        return removed

    def close(self) -> None:
        """The next use connects anew."""
        self.client.close()
