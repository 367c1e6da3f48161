"""A copy of the house whose API, log manager and worker are stand-ins: no job is really run.

The stand-in API keeps the job; the stand-in log manager tells of each step that it ran, and of a
job named `failing` that it failed. So what starts, watches and ends the programs can be tested as
it is, with real gunicorn, real dramatiq and a real NATS.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FACTORY = """
import json
import os
from pathlib import Path
from uuid import UUID

from flask import Flask, Response, request

JOB = Path(os.environ.get("HADES_DATA_DIR", "sandbox")).with_name("job.json")


def api():
    app = Flask("api")

    @app.get("/ping")
    def ping():
        return {"status": "ok"}

    @app.post("/build")
    def build():
        JOB.write_bytes(request.data)
        return {"job_id": str(UUID(int=7)), "message": "Successfully enqueued job"}

    return app


def frames():
    job = json.loads(JOB.read_text())
    yield {"type": "job", "job": {"id": "7", "status": "Running"}}
    for index, step in enumerate(job["steps"]):
        line = {"timestamp": "", "message": "ran " + step["image"], "output_stream": "stdout"}
        yield {"type": "log", "log": {"logs": [line]}, "step": {"index": index, **step}}
    yield {"type": "job", "job": {"id": "7", "status": "Succeeded"}}


def logs():
    app = Flask("logs")

    @app.get("/health")
    def health():
        return {"status": "ok"}

    @app.get("/jobs/<job_id>/logs/stream")
    def stream(job_id):
        return Response((f"data: {json.dumps(frame)}\\n\\n" for frame in frames()))

    return app
"""

WORKER = """
import dramatiq
from dramatiq.brokers.stub import StubBroker


def setup():
    dramatiq.set_broker(StubBroker())
"""


def build(root: Path) -> list[str]:
    """Make the copy below `root`; the argv of its `hades`."""
    ignore = shutil.ignore_patterns("__pycache__", "factory.py")
    for room in ("app", "brokers", "executors", "examples"):
        shutil.copytree(ROOT / room, root / room, ignore=ignore)
    (root / "app" / "factory.py").write_text(FACTORY)
    (root / "workers").mkdir()
    (root / "workers" / "main.py").write_text(WORKER)
    return [sys.executable, "-P", "-m", "app.launch"]
