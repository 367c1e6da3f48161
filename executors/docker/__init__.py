"""Runs each step in a container of a Docker Engine; the only room that knows the docker SDK.

An attempt is a volume, mounted at `/shared` into one container a step:

    volume -> (image -> create -> attach -> start -> output to its end -> wait -> remove)* -> remove

    executor    opens workspaces, and clears up after workers that were lost
    workspace   the verbs: what is asked of the Engine for a step, and when
    client      the connection pools (api: the SDK's client, with what it lacks)
    convert     pure: a step -> what the Engine is told to create
    images      what is not here is pulled, once for all who wait for it
    output      the Engine's stream -> the sink
    deadline    how much time is left, and the kill when it is up
    leftovers   finds by label, and removes
    owners      whose a thing is, and whether that process is dead
    errors      the SDK's exceptions -> ours
"""
