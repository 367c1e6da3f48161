"""The place of the Kubernetes executors: a Job per attempt, and the operator's BuildJob.

Nothing lives here yet. All steps of a job become containers of one pod; `run_step` follows the
n-th.
"""
