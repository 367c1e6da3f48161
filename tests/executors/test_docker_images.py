"""Pulling by a real Engine from a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import ImageNotFound

from executors.deadline import Deadline
from executors.docker.executor import DockerExecutor
from executors.errors import ImageUnavailable
from executors.settings import DockerSettings
from executors.stopping import Stopping
from tests.executors.image_archives import config, digest, file, layer
from tests.executors.registries import RunningRegistry, running_registry

pytestmark = pytest.mark.docker

FOREVER = Deadline(None)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def executor(engine: DockerSettings) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(engine, "tests")
    yield executor
    executor.close()


@pytest.fixture
def data(executor: DockerExecutor, request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A layer of the test's own; the images made of it are removed again."""
    data = layer(file("test", request.node.nodeid.encode()))
    yield data
    with suppress(ImageNotFound):
        executor.client.api.remove_image(digest(config([data])), force=True)


def find(executor: DockerExecutor, image: str) -> dict[str, Any]:
    return executor.client.images.find(executor.client.api, image, FOREVER, Stopping())


def test_an_image_that_is_not_here_is_pulled(
    executor: DockerExecutor, registry: RunningRegistry, data: bytes
) -> None:
    reference = registry.push_image("pulled:1", [data])
    assert find(executor, reference)["Id"] == digest(config([data]))


def test_a_name_without_a_tag_means_latest_and_no_other(
    executor: DockerExecutor, registry: RunningRegistry, data: bytes
) -> None:
    registry.push_image("plain:other", [data])
    reference = registry.push_image("plain:latest", [data])
    found = find(executor, reference.removesuffix(":latest"))
    assert found["RepoTags"] == [reference]


def test_an_image_is_pulled_by_its_digest(
    executor: DockerExecutor, registry: RunningRegistry, data: bytes
) -> None:
    reference = registry.push_image("pinned", [data])
    assert find(executor, reference)["RepoDigests"] == [reference]


def test_an_image_that_is_here_needs_no_registry(
    executor: DockerExecutor, data: bytes, tmp_path: Path
) -> None:
    with running_registry(tmp_path) as registry:
        reference = registry.push_image("here:1", [data])
        find(executor, reference)
    assert find(executor, reference)["RepoTags"] == [reference]


def test_those_who_wait_for_one_image_share_one_pull(
    executor: DockerExecutor, data: bytes, tmp_path: Path
) -> None:
    with running_registry(tmp_path) as registry, ThreadPoolExecutor(8) as threads:
        reference = registry.push_image("shared:1", [data])
        found = list(threads.map(find, [executor] * 8, [reference] * 8))
    assert len({image["Id"] for image in found}) == 1
    assert sum('"HEAD /v2/shared/manifests/1 ' in line for line in registry.log) == 1


def test_an_error_in_the_middle_of_a_pull_is_told_in_the_engines_words(
    executor: DockerExecutor, registry: RunningRegistry, data: bytes
) -> None:
    reference = registry.push_image("broken:1", [data], [layer(file("another"))])
    with pytest.raises(ImageUnavailable, match=f"failed to pull image {reference}: .+"):
        find(executor, reference)
