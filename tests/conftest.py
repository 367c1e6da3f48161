"""Services that tests share: one that is missing is skipped at a desk, and fails in CI."""

from __future__ import annotations

import os

import pytest

from executors.errors import ExecutorUnavailable
from executors.settings import DockerSettings


def unavailable(what: str) -> None:
    """End the test: skipped with its reason, or failed where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def engine() -> DockerSettings:
    """How to reach a running Docker Engine."""
    from executors.docker.executor import DockerExecutor

    settings = DockerSettings(host=os.environ.get("DOCKER_HOST") or DockerSettings().host)
    executor = DockerExecutor(settings, "tests")
    try:
        executor.check()
    except ExecutorUnavailable as error:
        unavailable(str(error))
    finally:
        executor.close()
    return settings
