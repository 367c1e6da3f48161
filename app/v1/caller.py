"""Who sends the request."""

from __future__ import annotations

from flask import g


def caller_name() -> str:
    """Name of the API key; empty without one."""
    return str(g.get("caller_name", ""))
