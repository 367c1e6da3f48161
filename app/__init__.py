"""HTTP in and out: the API, the log manager, the dashboard, and the `hades` command.

`factory` puts the web applications together; `build` is where the first Hades' clients come in,
`v1` everybody else. `index` answers what no single record can, `readiness` who asks whether we can
work. `launch` is where the installed command enters, `cli` what it offers. `commands` says how each
of the long-lived processes is started; `dev` and `demo` start all of them under one `supervisor`.
"""
