"""Puts the web applications together: from their collaborators, or from the environment."""

from __future__ import annotations

import logging
from pathlib import Path

from environs import Env
from flask import Flask

from app.auth import Authenticator, add_auth, require
from app.build import Queue, build_blueprint
from app.errors import add_error_handlers
from app.headers import add_headers
from app.health import health
from app.key_file import WatchedKeys
from app.keys import Scope
from app.limits import RateLimiter, add_limits
from app.logs.api import logs_blueprint
from app.logs.callbacks.service import CallbackService, callback_service
from app.readiness import Readiness, readiness_blueprint
from app.settings import ApiSettings, CallbackSettings, LogsSettings
from app.v1.opening import open_services
from app.v1.routes import v1_blueprint
from app.v1.services import Services
from brokers.events import Events
from brokers.job_store import JobStore
from brokers.log_reader import LogReader
from brokers.nats.connection import NatsConnection
from brokers.queue import PUT_PATIENCE, open_queue
from brokers.reachable import NatsProbe
from brokers.settings import NatsSettings
from brokers.shared_limits import SharedLimits, nats_store
from executors.redaction_settings import RedactionSettings


def create_api(
    queue: Queue,
    settings: ApiSettings,
    limits: SharedLimits | None = None,
    services: Services | None = None,
    readiness: Readiness | None = None,
) -> Flask:
    """The HTTP API, putting its jobs on `queue`. Without `limits`, they hold for this process;
    without `services` there is no `/v1`.

    Raises KeyFileError.
    """
    app = Flask("hades-api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.merge_slashes = False
    add_headers(app)
    add_error_handlers(app)
    keys = WatchedKeys(Path(settings.api_keys_file)) if settings.api_keys_file else None
    add_auth(app, Authenticator(settings.auth_key, keys))
    add_limits(app, RateLimiter(limits or SharedLimits(), settings.rate_limit))
    build = build_blueprint(queue)
    require(build, Scope.SUBMIT)
    app.register_blueprint(build)
    app.register_blueprint(health)
    app.register_blueprint(readiness_blueprint(readiness or Readiness({})))
    if services is not None:
        app.register_blueprint(v1_blueprint(services))
    return app


def api() -> Flask:
    """For gunicorn: `app.factory:api()`. Raises environs.EnvError, KeyFileError,
    IndexUnusable."""
    env = Env()
    settings = ApiSettings.from_env(env)
    log_to_stderr(debug=settings.debug)
    nats = NatsSettings.from_env(env)
    limits = SharedLimits(nats_store(nats.connect()))  # opened when somebody has a limit
    redactor = RedactionSettings.from_env(env).redactor()
    queue = open_queue(nats, redactor.job)
    services, writer = open_services(queue, nats, settings)
    writer.start()
    readiness = Readiness({"nats": NatsProbe(queue.broker.connection)})
    return create_api(queue, settings, limits, services, readiness)


def create_logs(store: JobStore, reader: LogReader, readiness: Readiness | None = None) -> Flask:
    """The log manager, reading jobs from `store` and their logs through `reader`."""
    app = Flask("hades-logs", static_folder=None)
    add_headers(app)
    add_error_handlers(app)
    app.register_blueprint(logs_blueprint(store, reader))
    app.register_blueprint(readiness_blueprint(readiness or Readiness({})))
    return app


def logs() -> Flask:
    """For gunicorn: `app.factory:logs()`. Raises environs.EnvError."""
    env = Env()
    nats = NatsSettings.from_env(env)
    log_to_stderr(debug=LogsSettings.from_env(env).debug)
    connection, store, reader = _readers(nats)
    if CallbackSettings.from_env(env).threads:
        callback_service(env, connection, store, reader).start()
    return create_logs(store, reader, Readiness({"nats": NatsProbe(connection)}))


def callbacks() -> CallbackService:
    """For `hades callbacks`: what sends them, not started yet. Raises environs.EnvError."""
    env = Env()
    nats = NatsSettings.from_env(env)
    log_to_stderr(debug=LogsSettings.from_env(env).debug)
    connection, store, reader = _readers(nats)
    return callback_service(env, connection, store, reader)


def _readers(nats: NatsSettings) -> tuple[NatsConnection, JobStore, LogReader]:
    """All on one connection."""
    connection = nats.connect()
    store = JobStore(connection, max_age=nats.record_max_age, patience=PUT_PATIENCE)
    events = Events(connection, max_age=nats.log_max_age, patience=PUT_PATIENCE)
    return connection, store, LogReader(connection, store, events)


def log_to_stderr(*, debug: bool) -> None:
    """Debug messages are only our own: those of libraries may quote what they handle."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for room in ("app", "brokers"):
        logging.getLogger(room).setLevel(logging.DEBUG if debug else logging.INFO)
    for library in ("httpcore", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
