"""What a POST costs without Hades: Flask's constant, and the messages that a job becomes.

    python -m benchmarks.api_floors NATS_URL SECONDS

Prints how many times a second three messages are stored, each confirmed before the next is sent;
alone, and 64 jobs' together.
"""

from __future__ import annotations

import itertools
import json
import sys
from time import perf_counter

from flask import Flask

from benchmarks.api_load import BODY
from brokers.nats.connection import NatsConnection
from brokers.nats.publisher import Publication, Publisher

MESSAGES = 3
"""The state, the job, the record."""
TOGETHER = 64


def constant() -> Flask:
    """As our API does at the least: takes a body, and answers with JSON."""
    flask = Flask("floor", static_folder=None)

    @flask.post("/build")
    def build() -> dict[str, str]:
        return {
            "job_id": "00000000-0000-4000-8000-000000000000",
            "message": "Successfully enqueued job",
        }

    return flask


def publishes(url: str, seconds: float, together: int) -> float:
    """Jobs a second."""
    connection = NatsConnection(url)
    publisher = Publisher(connection.open_wire, lambda: None)
    payload, numbers = json.dumps(BODY).encode(), itertools.count()

    def message() -> Publication:
        name = f"floor-{together}-{next(numbers)}"
        return Publication.of(f"hades.results.{name}", {}, payload, name)

    started, jobs = perf_counter(), 0
    while perf_counter() - started < seconds:
        for _ in range(MESSAGES):
            publisher.publish_many([message() for _ in range(together)], 5.0)
        jobs += together
    took = perf_counter() - started
    publisher.close()
    connection.close()
    return jobs / took


def main() -> None:
    """The command line, described above."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    print(json.dumps([publishes(url, seconds, together) for together in (1, TOGETHER)]))


if __name__ == "__main__":
    main()
