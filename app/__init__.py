"""HTTP in and out: the API, the log manager, the dashboard, and the `hades` command.

`launch` is where the installed command enters, `cli` what it offers. `commands` says how each of
the long-lived processes is started; `dev` and `demo` start all of them under one `supervisor`.
"""
