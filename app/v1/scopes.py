"""What a caller needs for each route: the one place that says it."""

from __future__ import annotations

SUBMIT, READ, CANCEL, ADMIN = "submit", "read", "cancel", "admin"

SCOPES = {
    "v1.submit": SUBMIT,
    "v1.list_jobs": READ,
    "v1.job": READ,
    "v1.payload": READ,
    "v1.result": READ,
    "v1.events": READ,
    "v1.logs": READ,
    "v1.cancel": CANCEL,
    "v1.cancel_some": CANCEL,
    "v1.retry": SUBMIT,
    "v1.queue": READ,
    "v1.workers": READ,
}
"""By endpoint; a test asserts that no route is missing."""
