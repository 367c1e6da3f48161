"""How gunicorn serves our Flask applications: a worker of its own (docs/decisions/0014).

    worker.py       gunicorn's worker: accepts, and hands whole requests to threads
    connection.py   one client: what has come from it, and whether that is a request yet
    crew.py         the threads
    framing.py      where a request ends
    output.py       what an answer is written to
    large.py        how many long bodies may be held at once

Gunicorn still parses each request, makes its environ and writes its answer. What differs from its
`gthread` is that a thread is taken only when a request is there as a whole: clients that are slow
cost memory, which is bounded, and time, which is bounded, and never a thread.
"""
