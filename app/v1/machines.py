"""The queue and the workers, as they are at the moment."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify

from app.v1.services import Services
from brokers import subjects
from brokers.nats import LaneStats, QueueStats
from executors.job import Priority


def add_machines(blueprint: Blueprint, services: Services) -> None:
    """The routes."""

    @blueprint.get("/queue")
    def queue() -> Response:
        lanes = services.lanes.get_lane_stats(subjects.QUEUE)
        stats = services.lanes.get_queue_stats().get(subjects.QUEUE, QueueStats())
        return jsonify(
            queued=sum(lane.ready for lane in lanes),
            in_flight=sum(lane.in_flight for lane in lanes),
            delayed=stats.delayed,
            dead_letters=stats.dead,
            oldest=_age(min((lane.oldest for lane in lanes if lane.oldest), default="")),
            priorities={_label(lane): _lane(lane) for lane in lanes},
        )

    @blueprint.get("/workers")
    def workers() -> Response:
        found = sorted(services.workers.list(), key=lambda worker: str(worker.name))
        return jsonify(workers=[asdict(worker) for worker in found])


def _label(lane: LaneStats) -> str:
    return Priority(lane.priority + Priority.LOW).label


def _lane(lane: LaneStats) -> dict[str, Any]:
    return {"queued": lane.ready, "in_flight": lane.in_flight, "oldest": _age(lane.oldest)}


def _age(since: str) -> dict[str, Any] | None:
    """Of a job that waits; None: there is none."""
    if not since:
        return None
    waiting = datetime.now(UTC) - datetime.fromisoformat(since)
    return {"queued_at": since, "waiting_seconds": max(0.0, round(waiting.total_seconds(), 3))}
