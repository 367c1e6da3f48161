"""Settings of the web applications, read once by a composition root (`app/factory.py`)."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from environs import Env
from marshmallow.validate import Range

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
    """Password of the user `hades` for `POST /build`; empty: anybody may. `AUTH_KEY`."""
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


def _debug(env: Env) -> bool:
    return env.str("DEBUG", "") == "true"
