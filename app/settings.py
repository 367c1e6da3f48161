"""Settings of the web applications, read once by a composition root (`app/factory.py`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from environs import Env, EnvError, EnvValidationError
from marshmallow.validate import Range

from app.logs.callbacks.guard import Allowed
from app.logs.callbacks.signatures import secret_of
from brokers.token_buckets import Rate

T = TypeVar("T")

API_THREADS = 128
"""Requests that one process of the API may answer at once."""

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
    max_body_bytes: int = 8 * 1024 * 1024
    """The longest request body, 8 MiB. `HADES_MAX_BODY_BYTES`."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CallbackSettings:
    """How callbacks are sent. An empty variable counts as unset."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """What callbacks are signed with: `whsec_...`, several separated by commas while one replaces
    another; none: callbacks are not signed. `HADES_CALLBACK_SECRETS`."""
    allow: tuple[str, ...] = ()
    """Networks and host names that are called though they are not public, separated by commas; `*`:
    all. `HADES_CALLBACK_ALLOW`."""
    timeout: float = 10.0
    """Seconds of one try, from the connection to the answer. `HADES_CALLBACK_TIMEOUT`."""
    backoff: float = 5.0
    """Longest pause after the first try, in seconds; then doubled. `HADES_CALLBACK_BACKOFF`."""
    max_backoff: float = 300.0
    """Seconds to which it grows. `HADES_CALLBACK_MAX_BACKOFF`."""
    max_age: float = 86_400.0
    """Seconds from the first try to the last. `HADES_CALLBACK_MAX_AGE`."""
    permanent: tuple[int, ...] = (410,)
    """Answers after which no further try is made, separated by commas.
    `HADES_CALLBACK_PERMANENT`."""
    threads: int = 16
    """Callbacks under way at once; 0: this log manager sends none. `HADES_CALLBACK_THREADS`."""
    per_host: int = 4
    """Of them, to one host. `HADES_CALLBACK_PER_HOST`."""

    @classmethod
    def from_env(cls, env: Env) -> CallbackSettings:
        """Raises environs.EnvError, naming the variable."""
        plain = cls()
        return cls(
            secrets=tuple(_each(env, "HADES_CALLBACK_SECRETS", secret_of)),
            allow=tuple(_each(env, "HADES_CALLBACK_ALLOW", _allowed)),
            timeout=_seconds(env, "HADES_CALLBACK_TIMEOUT", plain.timeout),
            backoff=_seconds(env, "HADES_CALLBACK_BACKOFF", plain.backoff),
            max_backoff=_seconds(env, "HADES_CALLBACK_MAX_BACKOFF", plain.max_backoff),
            max_age=_seconds(env, "HADES_CALLBACK_MAX_AGE", plain.max_age),
            permanent=tuple(_each(env, "HADES_CALLBACK_PERMANENT", _status)) or plain.permanent,
            threads=_number(env, "HADES_CALLBACK_THREADS", plain.threads, Range(0, 512)),
            per_host=_number(env, "HADES_CALLBACK_PER_HOST", plain.per_host, Range(1, 512)),
        )


def _each(env: Env, name: str, convert: Callable[[str], T]) -> list[T]:
    """Of a list that is separated by commas. What is wrong is told without quoting a secret."""
    entries = [entry.strip() for entry in env.str(name, "").split(",")]
    try:
        return [convert(entry) for entry in entries if entry]
    except ValueError as error:
        raise EnvValidationError(f"{name}: {error}", [str(error)]) from None


def _allowed(entry: str) -> str:
    Allowed.of([entry])
    return entry


def _status(entry: str) -> int:
    if not (entry.isascii() and entry.isdigit() and 300 <= int(entry) <= 599):
        raise ValueError(f"{entry!r} is no status of a failed request (300 to 599)")
    return int(entry)


def _seconds(env: Env, name: str, default: float) -> float:
    """A positive duration, written `90`, `90s`, `1m` or `12h`."""
    if not env.str(name, ""):
        return default
    duration = env.timedelta(name).total_seconds()
    if duration <= 0:
        raise EnvValidationError(f"{name}: must be more than 0", ["must be more than 0"])
    return duration


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
