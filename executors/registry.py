"""From `HADES_EXECUTOR` to an executor. Imports only the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable

from executors.base import Executor
from executors.errors import HadesError
from executors.settings import ExecutorSettings


def create_executor(settings: ExecutorSettings, *, worker: str) -> Executor:
    """`worker` names this process in what the executor creates. Raises HadesError."""
    factory = _FACTORIES.get(settings.executor)
    if factory is None:
        names = ", ".join(sorted(_FACTORIES))
        raise HadesError(f"there is no executor {settings.executor!r}; there are: {names}")
    return factory(settings, worker)


def _docker(settings: ExecutorSettings, worker: str) -> Executor:
    from executors.docker.executor import DockerExecutor

    return DockerExecutor(settings.docker, worker)


def _sandbox(settings: ExecutorSettings, worker: str) -> Executor:
    from executors.sandbox.executor import SandboxExecutor

    return SandboxExecutor(settings.sandbox, worker)


def _dummy(settings: ExecutorSettings, worker: str) -> Executor:
    from executors.dummy import DummyExecutor

    return DummyExecutor()


def _kubernetes(settings: ExecutorSettings, worker: str) -> Executor:
    raise HadesError("the k8s executor is not built yet; use docker or sandbox")


_FACTORIES: dict[str, Callable[[ExecutorSettings, str], Executor]] = {
    "docker": _docker,
    "dummy": _dummy,
    "k8s": _kubernetes,
    "sandbox": _sandbox,
}
