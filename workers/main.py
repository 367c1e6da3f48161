"""The worker's composition root: `dramatiq workers.main:setup`."""

from __future__ import annotations

import logging
import sys

import dramatiq
from environs import Env, EnvError

from brokers.control import Control
from brokers.events import Events
from brokers.job_store import FOREVER, JobStore
from brokers.nats import NatsBroker
from brokers.nats.errors import ConnectionFailed
from brokers.payloads import PayloadStore
from brokers.queue import open_broker
from brokers.settings import NatsSettings
from executors.errors import HadesError
from executors.registry import create_executor
from executors.settings import ExecutorSettings
from workers.actors import declare_run_job
from workers.drain import Drain
from workers.middleware import ExecutorMiddleware
from workers.runner import Runner
from workers.settings import WorkerSettings
from workers.watcher import Watcher

log = logging.getLogger(__name__)


def setup() -> None:
    """Build the worker from the environment and make its broker Dramatiq's.

    Exits, saying why, when settings are wrong, when NATS is not there, and when the executor cannot
    run jobs: a broken machine must not take any.
    """
    try:
        dramatiq.set_broker(build(Env()))
    except (EnvError, HadesError, ConnectionFailed) as error:
        log.critical("the worker cannot start: %s", error)
        sys.exit(1)


def build(env: Env) -> NatsBroker:
    """The worker's broker, with its one actor declared.

    None of Dramatiq's own middleware is used: a job has its own time limit, and a step that fails
    is a result, not a reason to retry. Raises EnvError, HadesError, ConnectionFailed.
    """
    nats = NatsSettings.from_env(env)
    settings = WorkerSettings.from_env(env)
    for room in ("brokers", "executors", "workers"):
        logging.getLogger(room).setLevel(logging.DEBUG if settings.debug else logging.INFO)
    executors = ExecutorSettings.from_env(env)
    executor = create_executor(executors, worker=settings.name)
    executor.check()
    executor.reap_orphans()
    connection = nats.connect()
    store = JobStore(connection, max_age=nats.record_max_age, patience=FOREVER)
    payloads = PayloadStore(connection, max_age=nats.record_max_age, patience=FOREVER)
    events = Events(connection, max_age=nats.log_max_age)
    control = Control(connection)
    runner = Runner(
        store, events, log_limit=settings.log_limit, pull_timeout=executors.pull_timeout
    )
    middleware = ExecutorMiddleware(
        executor,
        store,
        payloads,
        control,
        runner,
        worker=settings.name,
        max_attempts=nats.max_deliver,
    )
    events.declare()
    Watcher(store, control, middleware.attempts, settings.name).start()
    drain = Drain(middleware.attempts, grace=settings.grace)
    broker = open_broker(nats, connection, middleware=[middleware, drain])
    declare_run_job(broker, middleware, runner)
    return broker
