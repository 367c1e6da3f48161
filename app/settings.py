"""Settings of the web applications, read once by a composition root (`app/factory.py`)."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from environs import Env, EnvError
from marshmallow.validate import Range

from brokers.token_buckets import Rate

API_THREADS = 32
"""Requests that one process of the API answers at once."""

_PORTS = Range(1, 65_535)


def _index_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"hades-index-{os.getuid()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """What the HTTP API needs to know. An empty variable counts as unset."""

    port: int = 8080
    """Where `hades api` listens, on all addresses. `API_PORT`."""
    auth_key: str = field(default="", repr=False)
    """Password of the user `hades`, who may do everything. Without it and without a file of keys
    anybody may. `AUTH_KEY`."""
    api_keys_file: str = ""
    """Lists the API keys, see `app.keys`; read again when it changes. `HADES_API_KEYS_FILE`."""
    rate_limit: Rate | None = None
    """Jobs that each key may submit, if it has no rate of its own; also all those together who have
    `AUTH_KEY`, or need no key. None: any number. `HADES_RATE_LIMIT` and `HADES_RATE_BURST`."""
    debug: bool = False
    """Debug messages, when the variable is exactly `true`. `DEBUG`."""
    max_body_bytes: int = 983_040
    """The longest request body. The default, 960 KiB, leaves room for what a job carries when it
    travels as one message of NATS' 1 MiB. `HADES_MAX_BODY_BYTES`."""
    index_dir: Path = field(default_factory=_index_dir)
    """Where the index of jobs lies, a directory of this user's alone that all API processes of the
    machine share. `HADES_INDEX_DIR`."""
    waiters: int = API_THREADS // 2
    """Requests that may wait at once for a job's end, in each process; the other threads answer."""

    @classmethod
    def from_env(cls, env: Env) -> ApiSettings:
        """Raises environs.EnvError, naming the variable."""
        plain = cls()
        return cls(
            port=_number(env, "API_PORT", plain.port, _PORTS),
            auth_key=env.str("AUTH_KEY", ""),
            api_keys_file=env.str("HADES_API_KEYS_FILE", ""),
            rate_limit=_rate(env),
            debug=_debug(env),
            max_body_bytes=_number(env, "HADES_MAX_BODY_BYTES", plain.max_body_bytes, Range(min=1)),
            index_dir=Path(env.str("HADES_INDEX_DIR", "") or plain.index_dir),
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


def _rate(env: Env) -> Rate | None:
    text, burst = env.str("HADES_RATE_LIMIT", ""), _number(env, "HADES_RATE_BURST", 0, Range(min=1))
    try:
        return Rate.parse(text, burst) if text else None
    except ValueError as error:
        raise EnvError(f'HADES_RATE_LIMIT is "{text}": {error}') from error


def _debug(env: Env) -> bool:
    return env.str("DEBUG", "") == "true"
