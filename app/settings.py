"""Settings of the web applications, read once by a composition root (`app/factory.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from environs import Env
from marshmallow.validate import Range

_PORTS = Range(1, 65_535)


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """What the HTTP API needs to know. An empty variable counts as unset."""

    port: int = 8080
    """Where `hades api` listens, on all addresses. `API_PORT`."""
    auth_key: str = field(default="", repr=False)
    """Password of the user `hades` for `POST /build`; empty: anybody may. `AUTH_KEY`."""
    debug: bool = False
    """Debug messages, when the variable is exactly `true`. `DEBUG`."""
    max_body_bytes: int = 983_040
    """The longest request body. The default, 960 KiB, leaves room for what a job carries when it
    travels as one message of NATS' 1 MiB. `HADES_MAX_BODY_BYTES`."""

    @classmethod
    def from_env(cls, env: Env) -> ApiSettings:
        """Raises environs.EnvError, naming the variable."""
        plain = cls()
        return cls(
            port=_number(env, "API_PORT", plain.port, _PORTS),
            auth_key=env.str("AUTH_KEY", ""),
            debug=_debug(env),
            max_body_bytes=_number(env, "HADES_MAX_BODY_BYTES", plain.max_body_bytes, Range(min=1)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogsSettings:
    """What the log manager needs to know. An empty variable counts as unset."""

    port: int = 8081
    """Where `hades logs` listens, on all addresses. `HADESLOGMANAGER_API_PORT`."""
    debug: bool = False
    """Debug messages, when the variable is exactly `true`. `DEBUG`."""

    @classmethod
    def from_env(cls, env: Env) -> LogsSettings:
        """Raises environs.EnvError, naming the variable."""
        port = _number(env, "HADESLOGMANAGER_API_PORT", cls().port, _PORTS)
        return cls(port=port, debug=_debug(env))


def _number(env: Env, name: str, default: int, limits: Range) -> int:
    if not env.str(name, ""):
        return default
    return env.int(name, validate=limits)


def _debug(env: Env) -> bool:
    return env.str("DEBUG", "") == "true"
