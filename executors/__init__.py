"""What a job is, and the ways to run one.

The lowest floor: it imports nothing of ours. `job`, `schema` and `errors` are the model that every
other floor shares, `redaction` is what is shown of it; `base` is the contract that each way of
running a job keeps:

    executor.check() -> with executor.open(job, attempt) as workspace -> workspace.run_step(...)*
"""
