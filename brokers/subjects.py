"""Every NATS name of Hades: subjects, streams, buckets, headers.

The names of the queue itself belong to `brokers.nats.streams`, under the namespace below.
"""

from __future__ import annotations

from brokers.nats.streams import encode
from executors.job import JobState

QUEUE_NAMESPACE = "hades"
QUEUE = "jobs"
ACTOR = "run_job"

LOG_STREAM = "HADES_JOB_LOGS"
LOG_SUBJECTS = "hades.logs.*"
STATUS_STREAM = "HADES_JOB_STATUS"
STATUS_SUBJECTS = "hades.jobstatus.*"
RESULT_STREAM = "HADES_JOB_RESULTS"
RESULT_SUBJECTS = "hades.results.*"
RECORD_BUCKET = "HADES_JOB_RECORDS"
PAYLOAD_BUCKET = "HADES_JOB_PAYLOADS"
WORKER_BUCKET = "HADES_WORKERS"
DUTY_BUCKET = "HADES_DUTIES"
CONTROL_SUBJECT = "hades.control"
LIMIT_BUCKET = "HADES_RATE_LIMITS"
IDEMPOTENCY_BUCKET = "HADES_IDEMPOTENCY_KEYS"

CALLBACK_QUEUE = "callbacks"
CALLBACK_ACTOR = "call_back"
TARGET_BUCKET = "HADES_CALLBACK_TARGETS"

REASON_HEADER = "X-Hades-Reason"
ATTEMPT_HEADER = "X-Hades-Attempt"
STEP_HEADER = "X-Hades-Step"
SEQUENCE_HEADER = "X-Hades-Sequence"


def logs(job_id: str) -> str:
    """Log batches of one job."""
    return f"hades.logs.{encode(job_id)}"


def status(state: JobState) -> str:
    """Jobs entering this state, for all jobs."""
    return f"hades.jobstatus.{state}"


def results(job_id: str) -> str:
    """The result of one job."""
    return f"hades.results.{encode(job_id)}"


def worker(name: str) -> str:
    """Questions to one worker."""
    return f"hades.worker.{encode(name)}"
