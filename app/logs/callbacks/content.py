"""What receivers get: bodies, and the headers that say what they are about."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.version import installed_version
from brokers.callbacks.messages import Callback, CallbackKind, Delivery
from brokers.log_reader import LogMessage, as_slots
from brokers.records import JobRecord
from executors.job import JobState

MISSING = "hades: nothing is kept of this step's log"
_EVENTS = {JobState.QUEUED: "job.queued", JobState.RUNNING: "job.running"}


def event_of(callback: Callback) -> str:
    """`job.logs`, `job.queued`, `job.running`, `job.completed`."""
    if callback.kind is CallbackKind.LOGS:
        return "job.logs"
    return _EVENTS.get(callback.state, "job.completed")


def headers_of(delivery: Delivery) -> dict[str, str]:
    """All but those that sign it."""
    callback, version = delivery.callback, installed_version()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Hades/{version}" if version else "Hades",
        "Connection": "close",
        "X-Hades-Event": event_of(callback),
        "X-Hades-Job-Id": callback.job_id,
        "X-Hades-Attempt": str(callback.attempt),
        "X-Hades-Delivery": str(delivery.number),
        "X-Hades-Status": str(callback.state),
        "X-Hades-Timestamp": callback.told_at,
    }
    if callback.reason:
        headers["X-Hades-Reason"] = in_header(callback.reason)
    return headers


def in_header(text: str) -> str:
    """One line of printable ASCII; what is none becomes a question mark."""
    return "".join(char if " " <= char <= "~" else "?" for char in " ".join(text.split()))


def status_body(callback: Callback) -> dict[str, Any]:
    """What is not known is left out."""
    facts = {
        "event": event_of(callback),
        "job_id": callback.job_id,
        "name": callback.name,
        "status": str(callback.state),
        "reason": callback.reason,
        "queued_at": callback.queued_at,
        "started_at": callback.started_at,
        "finished_at": callback.finished_at,
        "duration_ms": duration_ms(callback.started_at, callback.finished_at),
        "attempt": callback.attempt,
        "timestamp": callback.told_at,
    }
    return {key: value for key, value in facts.items() if value is not None and value != ""}


def duration_ms(started_at: str, finished_at: str) -> int | None:
    """Of RFC 3339 times; None when one of them is not known."""
    if not (started_at and finished_at):
        return None
    taken = datetime.fromisoformat(finished_at) - datetime.fromisoformat(started_at)
    return max(0, round(taken.total_seconds() * 1000))


def logs_body(
    callback: Callback, messages: list[LogMessage], record: JobRecord | None
) -> list[dict[str, Any]]:
    """A `Log` for each step that ran, at the step's index: also for those that were silent, and for
    those whose log is not kept any more, which say so."""
    found = {step: as_slots(_of(step, messages))[0] for step in {each.step for each in messages}}
    ran = _ran(record) if record is not None and record.attempt == callback.attempt else 0
    length = max([ran, *(step + 1 for step in found)])
    return [found.get(step) or _missing(callback, step) for step in range(length)]


def _of(step: int, messages: list[LogMessage]) -> list[LogMessage]:
    return [message for message in messages if message.step == step]


def _ran(record: JobRecord) -> int:
    """How many of the steps have begun: they do so in order."""
    return max((index + 1 for index, step in enumerate(record.steps) if step.started_at), default=0)


def _missing(callback: Callback, step: int) -> dict[str, Any]:
    entry = {"timestamp": callback.finished_at, "message": MISSING, "output_stream": "stderr"}
    return {"job_id": callback.job_id, "container_id": f"step-{step + 1}", "logs": [entry]}
