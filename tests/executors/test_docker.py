"""The `docker` executor keeps the contract, on a real Engine."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest

from executors.base import LABEL_JOB_ID, Executor, StepResult
from executors.docker.executor import DockerExecutor
from executors.errors import (
    ImageUnavailable,
    InfrastructureError,
    LimitUnsupported,
    StepRefused,
)
from executors.job import Job, Step
from executors.settings import DockerSettings
from tests.executors.contract import ExecutorContract, Recorder, job_of

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def shared_executor(engine: DockerSettings) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(engine, "tests")
    yield executor
    executor.close()


@pytest.fixture
def executor(shared_executor: DockerExecutor) -> DockerExecutor:
    return shared_executor


@pytest.fixture
def image(busybox_image: str) -> str:
    return busybox_image


@pytest.fixture
def nowhere(tmp_path: Path) -> DockerExecutor:
    return DockerExecutor(DockerSettings(host=f"unix://{tmp_path}/none.sock"), "tests")


class TestDocker(ExecutorContract):
    """On the image without bash."""

    def assert_nothing_left(self, executor: Executor, job: Job) -> None:
        assert isinstance(executor, DockerExecutor)
        mine = {"label": [f"{LABEL_JOB_ID}={job.id}"]}
        assert executor.api.containers(all=True, filters=mine) == []
        assert not executor.api.volumes(filters=mine)["Volumes"]
