"""Signatures as Standard Webhooks has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes of a secret


def secret_of(text: str) -> bytes:
    """From `whsec_` and base64. Raises ValueError, quoting nothing."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a secret is not base64") from None
    if not text.startswith(PREFIX) or not _SHORTEST <= len(secret) <= _LONGEST:
        raise ValueError(
            f"a secret must be {PREFIX} and the base64 of {_SHORTEST} to {_LONGEST} bytes"
        )
    return secret


def sign(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """One signature a secret: a receiver that knows one of them is content."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"
        for secret in secrets
    )
