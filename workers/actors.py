"""The actor that runs jobs. Declared on a given broker, never at import time on a global one."""

from __future__ import annotations

import logging
from typing import Any

from dramatiq import Actor, Broker

from brokers import subjects
from workers.middleware import ExecutorMiddleware
from workers.runner import Runner


def declare_run_job(broker: Broker, middleware: ExecutorMiddleware, runner: Runner) -> None:
    """The API puts a job on the queue by this actor's name."""

    def run_job(job: dict[str, Any]) -> None:
        """`job` is what the middleware has opened a workspace for."""
        runner.run(middleware.attempt())

    actor = Actor(
        run_job,
        broker=broker,
        actor_name=subjects.ACTOR,
        queue_name=subjects.QUEUE,
        priority=0,
        options={},
    )
    actor.logger.setLevel(logging.INFO)  # its debug line quotes the whole job
