"""The blueprint of `/v1`, with all of its rooms."""

from __future__ import annotations

import logging

from flask import Blueprint, Response, request

from app.auth import authorize
from app.index.reader import IndexAway
from app.v1 import problems
from app.v1.control import add_control
from app.v1.details import add_details
from app.v1.listing import add_listing
from app.v1.machines import add_machines
from app.v1.problems import Refused
from app.v1.scopes import SCOPES
from app.v1.services import Services
from app.v1.submission import add_submission
from brokers.nats.errors import BrokerError

log = logging.getLogger(__name__)


def v1_blueprint(services: Services) -> Blueprint:
    """All routes below `/v1`; what each needs of its caller stands in `app.v1.scopes`."""
    blueprint = Blueprint("v1", __name__, url_prefix="/v1")
    blueprint.before_request(lambda: authorize(SCOPES[request.endpoint or ""]))
    for add in (add_submission, add_listing, add_details, add_control, add_machines):
        add(blueprint, services)
    blueprint.register_error_handler(Refused, _refused)
    blueprint.register_error_handler(IndexAway, _index_away)
    blueprint.register_error_handler(BrokerError, _nats_away)
    return blueprint


def _refused(error: Refused) -> Response:
    return error.problem.response()


def _index_away(error: IndexAway) -> Response:
    return problems.away("the index of jobs is not there yet").response()


def _nats_away(error: BrokerError) -> Response:
    log.warning("a request failed as NATS did not answer: %s", type(error).__name__)
    return problems.unavailable(error).response()
