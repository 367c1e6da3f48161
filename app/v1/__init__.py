"""REST v1: everything below `/v1`, as JSON, with errors as problem+json.

`routes` puts the blueprint together from its rooms: `submission` (POST /v1/jobs), `listing`,
`details` (one job: record, result, events, logs), `control` (cancel, retry) and `machines` (queue,
workers). `services` is what they work with, `scopes` what a caller needs for each of them.
`problems` is how errors are told, `changes` what happened between two revisions of a record.
"""
