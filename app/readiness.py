"""`/livez` and `/readyz`: whether the process is there, and whether it can do its work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic

from flask import Blueprint, Response, jsonify

PATIENCE_SECONDS = 1.0
"""How long an answer may take: what takes longer is away."""
FRESH_SECONDS = 1.0
"""How long what was found out is told again, without asking."""

Probe = Callable[[], object]
"""Raises when what it asks is away; may take long."""

log = logging.getLogger(__name__)


class Readiness:
    """What a process needs, by name; each is asked by one thread at a time."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._checks = {name: _Check(name, probe) for name, probe in probes.items()}

    def away(self) -> list[str]:
        """Names of what does not answer."""
        now = monotonic()
        for check in self._checks.values():
            check.begin(now)
        return [name for name, check in self._checks.items() if not check.there(now)]


class _Check:
    def __init__(self, name: str, probe: Probe) -> None:
        self._name = name
        self._probe = probe
        self._changed = threading.Condition()
        self._asking = False
        self._asked_at = self._known_at = float("-inf")
        self._there = False

    def begin(self, now: float) -> None:
        """Ask, unless that is under way or was done a moment ago."""
        with self._changed:
            if self._asking or self._is_fresh(now):
                return
            self._asking, self._asked_at = True, now
        threading.Thread(target=self._ask, name=f"ready-{self._name}", daemon=True).start()

    def _ask(self) -> None:
        there = True
        try:
            self._probe()
        except Exception as error:
            log.debug("%s is away: %r", self._name, error)
            there = False
        with self._changed:
            self._asking, self._there, self._known_at = False, there, monotonic()
            self._changed.notify_all()

    def there(self, now: float) -> bool:
        """What a request that came now is told; an answer that takes longer is none."""
        with self._changed:
            deadline = min(now, self._asked_at) + PATIENCE_SECONDS if self._asking else now
            self._changed.wait_for(lambda: self._is_fresh(now), max(0.0, deadline - monotonic()))
            return self._is_fresh(now) and self._there

    def _is_fresh(self, now: float) -> bool:
        return now - self._known_at < FRESH_SECONDS


def readiness_blueprint(readiness: Readiness) -> Blueprint:
    """Both routes, for anybody; neither says more than it must."""
    blueprint = Blueprint("readiness", __name__)

    @blueprint.get("/livez")
    def livez() -> Response:
        return jsonify(status="alive")

    @blueprint.get("/readyz")
    def readyz() -> tuple[Response, int]:
        away = readiness.away()
        return (jsonify(status="away", away=away), 503) if away else (jsonify(status="ready"), 200)

    return blueprint
