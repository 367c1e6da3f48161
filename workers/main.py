"""The worker's composition root: `dramatiq workers.main:setup`."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import dramatiq
from environs import Env, EnvError

from brokers.callbacks.queue import open_callbacks
from brokers.control import Control
from brokers.events import Events
from brokers.job_store import FOREVER, JobStore
from brokers.keeper import Keeper
from brokers.nats import NatsBroker
from brokers.nats.errors import ConnectionFailed
from brokers.opening import open_broker
from brokers.payloads import PayloadStore
from brokers.records import JobRecord
from brokers.settings import NatsSettings
from brokers.worker_registry import WorkerRegistry, WorkerState
from executors.base import Executor
from executors.errors import ExecutorUnavailable, HadesError
from executors.redaction import Redactor
from executors.redaction_settings import RedactionSettings
from executors.registry import create_executor
from executors.settings import ExecutorSettings
from workers.actors import declare_run_job
from workers.attempts import Attempts
from workers.attendants import Attendant, Attendants
from workers.drain import Drain
from workers.guard import Guard
from workers.health import Health
from workers.middleware import ExecutorMiddleware
from workers.presence import Presence, Situation
from workers.reaper import Reaper
from workers.runner import Runner
from workers.settings import WorkerSettings
from workers.watcher import Watcher

log = logging.getLogger(__name__)


def setup() -> None:
    """Build the worker from the environment and make its broker Dramatiq's.

    Exits, saying why, when settings are wrong or NATS is not there. A worker whose executor cannot
    run jobs starts, and takes none until it can.
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
    with suppress(ExecutorUnavailable):  # the guard will say so; but here is no other thread yet
        executor.check()
    worker = Worker(executor, settings, nats, RedactionSettings.from_env(env).redactor())
    worker.declare(pull_timeout=executors.pull_timeout)
    return worker.broker


class Worker:
    """Everything that one process is made of."""

    def __init__(
        self,
        executor: Executor,
        settings: WorkerSettings,
        nats: NatsSettings,
        redactor: Redactor,
        **options: object,
    ) -> None:
        """`options` are for the broker."""
        self.executor = executor
        self.settings = settings
        self.nats = nats
        self.connection = nats.connect()
        self.attempts = Attempts()
        self.store = JobStore(
            self.connection,
            max_age=nats.record_max_age,
            patience=FOREVER,
            describe=lambda job: JobRecord.of(job, redactor.job(job)["metadata"]),
        )
        self.broker = open_broker(nats, self.connection, middleware=[], **options)
        self.drain = Drain(self.attempts, grace=settings.grace)
        self.presence = Presence(
            WorkerRegistry(self.connection),
            name=settings.name,
            executor=executor.name,
            concurrency=settings.concurrency,
            situation=self._situation,
            busy=self.attempts.__len__,
        )
        self.guard = Guard(self.broker, executor, told=self.presence.tell)
        self.attempts.changed = self.presence.tell

    def declare(self, *, pull_timeout: float) -> None:
        """The actor, and what happens around it. Raises ConnectionFailed."""
        events = Events(
            self.connection,
            max_age=self.nats.log_max_age,
            listeners=[open_callbacks(self.nats, self.connection)],
        )
        events.declare()
        control = Control(self.connection)
        self.runner = Runner(
            self.store, events, log_limit=self.settings.log_limit, pull_timeout=pull_timeout
        )
        payloads = PayloadStore(self.connection, max_age=self.nats.record_max_age, patience=FOREVER)
        middleware = ExecutorMiddleware(
            self.executor,
            self.store,
            payloads,
            control,
            self.runner,
            self.attempts,
            worker=self.settings.name,
            max_attempts=self.nats.max_deliver,
            machine_is_broken=self.guard.agrees,
        )
        watcher = Watcher(self.store, control, self.attempts, self.settings.name)
        keeper = Keeper(self.store, self.broker, events, payloads, name=self.settings.name)
        attendants: list[Attendant] = [
            self.guard,
            watcher,
            Reaper(self.executor),
            keeper,
            self.presence,
        ]
        if self.settings.port:
            attendants.append(self._health())
        for each in (Attendants(attendants), self.drain, middleware):
            self.broker.add_middleware(each)
        declare_run_job(self.broker, middleware, self.runner)

    def _health(self) -> Health:
        return Health(self.settings.port, self.presence.status, lambda: self.connection.connected)

    def _situation(self) -> Situation:
        if self.drain.draining.is_set():
            return WorkerState.DRAINING, ""
        reason = self.guard.reason
        return (WorkerState.PAUSED if reason else WorkerState.RUNNING), reason
