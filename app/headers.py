"""The headers that every answer carries, errors included."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

Headers = list[tuple[str, str]]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
}

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Not sent below `/swagger`, whose pages bring their own scripts."""


_SECURITY = {name.lower(): (name, value) for name, value in SECURITY_HEADERS.items()}
_ALL = {**_SECURITY, "content-security-policy": ("Content-Security-Policy", CONTENT_POLICY)}


def add_headers(app: Flask) -> None:
    """From now on, on every answer of `app`, in place of any that it has set itself."""
    inner = app.wsgi_app

    def with_headers(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        ours = _SECURITY if environ.get("PATH_INFO", "").startswith("/swagger") else _ALL

        def start_with_headers(status: str, headers: Headers, *error: Any) -> Any:
            others = [header for header in headers if header[0].lower() not in ours]
            return start(status, [*others, *ours.values()], *error)

        return inner(environ, start_with_headers)

    app.wsgi_app = with_headers  # type: ignore[assignment, method-assign]
