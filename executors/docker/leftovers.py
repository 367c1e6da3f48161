"""Finds by label what attempts have left in the Engine, and removes it. Gone already is fine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from docker import APIClient
from docker.errors import APIError, NotFound

from executors.base import LABEL_OWNER
from executors.docker.errors import explain

CONFLICT = 409
REMOVAL_TIMEOUT = 60
"""Seconds to wait for a removal that somebody else has begun."""


logger = logging.getLogger(__name__)


def remove_labelled(api: APIClient, labels: Mapping[str, str]) -> None:
    """Remove the containers and volumes that carry all of these, running ones too."""
    mine = {"label": [f"{name}={value}" for name, value in labels.items()]}
    for container in api.containers(all=True, filters=mine):
        remove_container(api, container["Id"])
    for volume in api.volumes(filters=mine)["Volumes"] or ():
        remove_volume(api, volume["Name"])


def remove_orphans(
    api: APIClient, orphaned: Callable[[Mapping[str, str]], bool]
) -> tuple[int, int]:
    """Remove what has an owner and `orphaned` labels: how much was removed, and how much not."""
    owned = {"label": [LABEL_OWNER]}
    removals: list[tuple[Callable[[APIClient, str], None], str]] = [
        (remove_container, container["Id"])
        for container in api.containers(all=True, filters=owned)
        if orphaned(container["Labels"])
    ]
    removals += [
        (remove_volume, volume["Name"])
        for volume in api.volumes(filters=owned)["Volumes"] or ()
        if orphaned(volume["Labels"])
    ]
    done = [_removed(remove, api, name) for remove, name in removals]
    return done.count(True), done.count(False)


def _removed(remove: Callable[[APIClient, str], None], api: APIClient, name: str) -> bool:
    """Whether it worked: one thing that does not go must not keep the others."""
    try:
        remove(api, name)
    except APIError as error:
        logger.warning("An orphan could not be removed: %s (%s)", name, explain(error))
        return False
    return True


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
