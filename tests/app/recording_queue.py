"""A queue that keeps its jobs, and the API over it, in this process or under gunicorn."""

from flask import Flask

from app.factory import create_api
from app.settings import ApiSettings
from executors.job import Job


class RecordingQueue:
    """Keeps what it is given; raises `failure` instead when there is one."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.failure: Exception | None = None

    def put(self, job: Job) -> None:
        if self.failure is not None:
            raise self.failure
        self.jobs.append(job)


def api() -> Flask:
    """What gunicorn serves in `test_build_over_http.py`."""
    return create_api(RecordingQueue(), ApiSettings())
