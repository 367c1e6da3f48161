"""Basic authentication with one shared key."""

from __future__ import annotations

import hmac
from base64 import b64encode

from flask import Blueprint, Response, request

USER = "hades"


def require_key(blueprint: Blueprint, key: str) -> None:
    """Answer 401, before a body is read, to who does not know `key`; an empty key admits all."""
    if not key:
        return
    expected = b64encode(f"{USER}:{key}".encode())

    @blueprint.before_request
    def check() -> Response | None:
        if _admitted(request.headers.get("Authorization", ""), expected):
            return None
        challenge = {"WWW-Authenticate": 'Basic realm="Authorization Required"'}
        return Response(status=401, headers=challenge)


def _admitted(header: str, expected: bytes) -> bool:
    """Compares the credentials as they travel: so none of them can fail to be decoded."""
    scheme, _, credentials = header.partition(" ")
    given = credentials.strip().encode(errors="replace")
    return hmac.compare_digest(given, expected) and scheme.lower() == "basic"
