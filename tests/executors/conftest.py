"""What the tests of executors share."""

from __future__ import annotations

import pytest

from executors.settings import DockerSettings
from tests.images import build

pytest.register_assert_rewrite(
    "tests.executors.contract",
    "tests.executors.core_contract",
    "tests.executors.pull_contract",
    "tests.executors.recorder",
    "tests.executors.stop_contract",
)

from tests.executors.pull_contract import deaf_registry  # noqa: E402, F401 - a fixture


@pytest.fixture(scope="session")
def busybox_image(engine: DockerSettings) -> str:
    """An image in the Engine with a POSIX shell and no bash, made when it is missing."""
    build.load("busybox")
    return "hades-test/busybox:latest"


@pytest.fixture(scope="session")
def debian_image(engine: DockerSettings) -> str:
    """An image in the Engine with bash and Python, made when it is missing."""
    build.load("debian")
    return "hades-test/debian:latest"
