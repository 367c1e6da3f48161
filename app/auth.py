"""Who calls, and what he may do.

    add_auth(app, Authenticator(...))       once, by the composition root
    require(blueprint, Scope.SUBMIT)        for all routes of a blueprint,
    @needs(Scope.CANCEL)                    or for one of them
    caller().name                           then, within a request

Who is not known is refused before the body is read.
"""

from __future__ import annotations

import hmac
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

from flask import Blueprint, Flask, current_app, g, request

from app.keys import OWNER, ApiKey, KeyRing, Scope
from brokers.token_buckets import Rate
from executors.errors import HadesError

P = ParamSpec("P")
T = TypeVar("T")

_EXTENSION = "hades-auth"

logger = logging.getLogger(__name__)


class LoginRequired(HadesError):
    """The request has no key that is valid."""


class ScopeMissing(HadesError):
    """The key is valid, but not for this."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f'this key lacks the scope "{scope}"')
        self.scope = scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who sent the request."""

    name: str
    """Of the key; `hades` for `AUTH_KEY`; empty where anybody may call."""
    scopes: frozenset[Scope]
    limit: str = "everybody"
    """Names what his rate is counted on: his key, or all those who have none of their own."""
    rate: Rate | None = None
    """None: the default."""

    def may(self, scope: Scope) -> bool:
        """Whether he has the scope; `admin` has all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


_ANYBODY = Caller(name="", scopes=frozenset(Scope))
_OWNER = Caller(name=OWNER, scopes=frozenset(Scope))


class Keys(Protocol):
    """Where keys come from; what they are may change."""

    def current(self) -> KeyRing:
        """The keys that are valid now."""


class Authenticator:
    """Knows callers by their `Authorization` header."""

    def __init__(self, owner_key: str = "", keys: Keys | None = None) -> None:
        """`owner_key` is `AUTH_KEY`; without it and without `keys` anybody may do everything."""
        self._owner = b64encode(f"{OWNER}:{owner_key}".encode()) if owner_key else b""
        self._keys = keys

    def identify(self, header: str) -> Caller | None:
        """None: it is nobody that we know."""
        if not self._owner and self._keys is None:
            return _ANYBODY
        scheme, _, credentials = header.partition(" ")
        scheme, credentials = scheme.lower(), credentials.strip()
        if scheme == "basic" and self._is_owner(credentials):
            return _OWNER
        key = self._find(scheme, credentials) if self._keys is not None else None
        return None if key is None else _caller_of(key)

    def _is_owner(self, credentials: str) -> bool:
        """Compares them as they travel: so none of them can fail to be decoded."""
        given = credentials.encode(errors="replace")
        return bool(self._owner) and hmac.compare_digest(given, self._owner)

    def _find(self, scheme: str, credentials: str) -> ApiKey | None:
        assert self._keys is not None
        user, secret = ("", credentials) if scheme == "bearer" else _decoded(scheme, credentials)
        key = self._keys.current().find(secret) if secret else None
        if key is None or user not in ("", OWNER, key.name):
            return None
        if key.expired(datetime.now(UTC)):
            logger.info("A key was refused because it has expired: %s (%s).", key.name, key.id)
            return None
        return key


def _decoded(scheme: str, credentials: str) -> tuple[str, str]:
    """User and password; a user that is empty would be taken for none."""
    try:
        text = b64decode(credentials, validate=True).decode() if scheme == "basic" else ""
    except ValueError:
        return "", ""
    user, _, password = text.partition(":")
    return (user, password) if user else ("", "")


def _caller_of(key: ApiKey) -> Caller:
    return Caller(name=key.name, scopes=key.scopes, limit=f"{key.name}.{key.id}", rate=key.rate)


def add_auth(app: Flask, authenticator: Authenticator) -> None:
    """From now on, for `require` and `needs`."""
    app.extensions[_EXTENSION] = authenticator


def require(blueprint: Blueprint, scope: Scope) -> None:
    """For every route of the blueprint, before anything else."""
    blueprint.before_request(lambda: authorize(scope))


def needs(scope: Scope) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For one route; stands below the route's decorator."""

    def decorate(view: Callable[P, T]) -> Callable[P, T]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            authorize(scope)
            return view(*args, **kwargs)

        return guarded

    return decorate


def caller() -> Caller:
    """Of the request that is being answered; it was let through by `require` or `needs`."""
    known: Caller = g.caller
    return known


def authorize(scope: Scope) -> None:
    """Let the request through. Raises LoginRequired, ScopeMissing."""
    authenticator: Authenticator = current_app.extensions[_EXTENSION]
    known = authenticator.identify(request.headers.get("Authorization", ""))
    if known is None:
        raise LoginRequired
    if not known.may(scope):
        raise ScopeMissing(scope)
    g.caller = known
