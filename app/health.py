"""Whether the API is there."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint

health = Blueprint("health", __name__)


@health.get("/ping")
def ping() -> dict[str, str]:
    """Says so to anybody, in the words of all earlier versions."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"message": "pong", "status": "ok", "timestamp": now.replace("+00:00", "Z")}
