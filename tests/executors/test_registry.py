"""Executors by their names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from executors.errors import HadesError
from executors.registry import create_executor
from executors.settings import ExecutorSettings


@pytest.mark.parametrize("name", ["docker", "dummy", "sandbox"])
def test_an_executor_is_made_by_its_name(name: str) -> None:
    if name == "sandbox":
        pytest.importorskip("executors.sandbox.executor")
    executor = create_executor(ExecutorSettings(executor=name), worker="w")
    assert executor.name == name
    executor.close()


@pytest.mark.parametrize(
    ("name", "told"), [("k8s", "not built yet"), ("podman", "'podman'; there are: docker, dummy")]
)
def test_what_is_no_executor_is_told_by_its_name(name: str, told: str) -> None:
    with pytest.raises(HadesError, match=told):
        create_executor(ExecutorSettings(executor=name), worker="w")


def test_an_executor_that_is_not_asked_for_is_not_imported() -> None:
    code = (
        "import sys; from executors.registry import create_executor;"
        "from executors.settings import ExecutorSettings;"
        "create_executor(ExecutorSettings(executor='dummy'), worker='w');"
        "print([name for name in ('docker', 'kubernetes') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
