"""HTTP in and out: the API, the log manager, the dashboard, and the `hades` command.

`factory` puts the web applications together, and `build` is where a job comes in. `launch` is where
the installed command enters, `cli` what it offers. `commands` says how each of the long-lived
processes is started; `dev` and `demo` start all of them under one `supervisor`.
"""
