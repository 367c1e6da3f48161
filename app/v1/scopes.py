"""What a caller needs for each route: the one place that says it."""

from __future__ import annotations

from app.keys import Scope

SCOPES = {
    "v1.submit": Scope.SUBMIT,
    "v1.list_jobs": Scope.READ,
    "v1.job": Scope.READ,
    "v1.payload": Scope.READ,
    "v1.result": Scope.READ,
    "v1.events": Scope.READ,
    "v1.logs": Scope.READ,
    "v1.cancel": Scope.CANCEL,
    "v1.cancel_some": Scope.CANCEL,
    "v1.retry": Scope.SUBMIT,
    "v1.queue": Scope.READ,
    "v1.workers": Scope.READ,
}
"""By endpoint."""
