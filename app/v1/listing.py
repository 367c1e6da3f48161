"""`GET /v1/jobs`: pages of the index."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from app.index.reader import Page
from app.v1.parameters import cursor_in_query, filter_in_query, limit_in_query
from app.v1.services import Services

LAG = "X-Hades-Index-Lag"


def add_listing(blueprint: Blueprint, services: Services) -> None:
    """The route."""

    @blueprint.get("/jobs")
    def list_jobs() -> Response:
        wanted, limit, after = filter_in_query(), limit_in_query(), cursor_in_query()
        missing = services.index.catch_up()
        answer = _page(services.index.page(wanted, after, limit))
        if missing != 0:
            answer.headers[LAG] = "unknown" if missing is None else str(missing)
        return answer


def _page(page: Page) -> Response:
    """The jobs are JSON already."""
    cursor = json.dumps(page.next.encode() if page.next else None)
    body = f'{{"jobs":[{",".join(page.jobs)}],"next":{cursor}}}\n'
    return Response(body, mimetype="application/json")
