"""Finds by label what attempts have left in the Engine, and removes it. Gone already is fine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from docker import APIClient
from docker.errors import APIError, NotFound

CONFLICT = 409
REMOVAL_TIMEOUT = 60
"""Seconds to wait for a removal that somebody else has begun."""


def remove_labelled(api: APIClient, labels: Mapping[str, str]) -> None:
    """Remove the containers and volumes that carry all of these, running ones too."""
    mine = {"label": [f"{name}={value}" for name, value in labels.items()]}
    for container in api.containers(all=True, filters=mine):
        remove_container(api, container["Id"])
    for volume in api.volumes(filters=mine)["Volumes"] or ():
        remove_volume(api, volume["Name"])


def remove_container(api: APIClient, container: str) -> None:
    """Kill and remove, with its anonymous volumes; returns when it is gone."""
    with suppress(NotFound):
        try:
            api.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code != CONFLICT:
                raise
            api.wait(container, condition="removed", timeout=REMOVAL_TIMEOUT)


def remove_volume(api: APIClient, volume: str) -> None:
    """Remove an attempt's `/shared`; no container may be using it."""
    with suppress(NotFound):
        api.remove_volume(volume, force=True)
