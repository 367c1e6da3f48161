"""Which Hades this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Empty in a checkout that is not installed."""
    try:
        return version("hades-scheduler")
    except PackageNotFoundError:
        return ""
