"""What travels over NATS, and how.

`nats/` is a general Dramatiq broker; above it, `queue` puts jobs on the queue, `events` carries
logs, states and results, `job_store` keeps each job's record. `subjects` holds every name.
"""
