"""Settings of everything that speaks to NATS, read once by a composition root."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from environs import Env
from marshmallow.validate import Range

from brokers.nats.connection import NatsConnection


@dataclass(frozen=True, kw_only=True, slots=True)
class NatsSettings:
    """Where NATS is, and how the queue treats a job that a worker holds."""

    url: str = "nats://localhost:4222"
    """Servers, separated by commas. `NATS_URL`."""
    username: str = ""
    """Used only when the password is set as well. `NATS_USERNAME`."""
    password: str = ""
    """`NATS_PASSWORD`."""
    tls_enabled: bool = False
    """Whether to speak TLS, with the system's authorities. `NATS_TLS_ENABLED`."""
    ack_wait: float = 30.0
    """Seconds after which a silent worker's job goes to another one. `NATS_ACK_WAIT`."""
    max_deliver: int = 3
    """Attempts of a job whose workers are lost, before it fails for good. `NATS_MAX_DELIVER`."""
    record_max_age: float = 30 * 86_400.0
    """Seconds that a job's record is kept after its last change. `HADES_RECORD_RETENTION`."""
    log_max_age: float = 2 * 86_400.0
    """Seconds that logs, states and results stay in their streams. `HADES_LOG_RETENTION`."""
    max_queued_jobs: int = 100_000
    """Jobs that may wait or run when another one is submitted; 0: any number. The bound is kept by
    those who submit, approximately. `HADES_MAX_QUEUED_JOBS`."""

    @classmethod
    def from_env(cls, env: Env) -> NatsSettings:
        """Raises environs.EnvError, naming the variable."""
        return cls(
            url=env.str("NATS_URL", "") or "nats://localhost:4222",
            username=env.str("NATS_USERNAME", ""),
            password=env.str("NATS_PASSWORD", ""),
            tls_enabled=env.bool("NATS_TLS_ENABLED", False),
            ack_wait=_seconds(env, "NATS_ACK_WAIT", 30.0),
            max_deliver=env.int("NATS_MAX_DELIVER", 3),
            record_max_age=_seconds(env, "HADES_RECORD_RETENTION", 30 * 86_400.0),
            log_max_age=_seconds(env, "HADES_LOG_RETENTION", 2 * 86_400.0),
            max_queued_jobs=_count(env, "HADES_MAX_QUEUED_JOBS", 100_000),
        )

    def connect(self) -> NatsConnection:
        """A connection with these settings; opened by its first use."""
        return NatsConnection(
            [server.strip() for server in self.url.split(",")],
            name="Hades",
            user=self.username,
            password=self.password,
            tls=ssl.create_default_context() if self.tls_enabled else None,
        )


def _count(env: Env, variable: str, default: int) -> int:
    if not env.str(variable, ""):
        return default
    return env.int(variable, validate=Range(min=0))


def _seconds(env: Env, variable: str, default: float) -> float:
    """A duration, written `90`, `90s`, `1m` or `12h`."""
    if not env.str(variable, ""):
        return default
    return env.timedelta(variable).total_seconds()
