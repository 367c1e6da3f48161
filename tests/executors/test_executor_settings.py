"""The settings of the executors, as the environment has them."""

from __future__ import annotations

import pytest
from environs import Env, EnvError

from executors.settings import MIN_FREE_DISK, ExecutorSettings
from tests.executors.contract import MIB


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> ExecutorSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return ExecutorSettings.from_env(Env())


def test_empty_values_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(monkeypatch, HADES_PULL_TIMEOUT="", HADES_MIN_FREE_DISK="")
    assert read.pull_timeout == 600.0
    assert read.docker.min_free_disk == read.sandbox.min_free_disk == MIN_FREE_DISK == 512 * MIB


def test_the_floor_of_free_disk_holds_for_every_executor_and_can_be_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = settings(monkeypatch, HADES_MIN_FREE_DISK="64m", HADES_PULL_TIMEOUT="1.5")
    assert read.docker.min_free_disk == read.sandbox.min_free_disk == 64 * MIB
    assert read.pull_timeout == 1.5
    assert settings(monkeypatch, HADES_MIN_FREE_DISK="0").sandbox.min_free_disk == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HADES_PULL_TIMEOUT", "0"),
        ("HADES_PULL_TIMEOUT", "soon"),
        ("HADES_MIN_FREE_DISK", "512"),
        ("DOCKER_MEMORY_LIMIT", "much"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(EnvError, match=name):
        settings(monkeypatch, **{name: value})
