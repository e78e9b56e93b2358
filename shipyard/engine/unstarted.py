"""Containers that are made to look into an image, or to hold it, and are never started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import docker

#: Tries while the engine takes layers away under our hands.
_TRIES = 5


def create(client: docker.DockerClient, digest: str, platform: str, labels: Mapping[str, str] | None = None) -> str:
    """A container of an image, by digest, for one platform; its id. Raises docker.errors.APIError.

    Where somebody removes another image with the same layers at this moment, containerd may collect an unpacked layer
    between finding it and building on it ("parent snapshot ... does not exist"); the next try unpacks it again.
    """
    from docker.errors import NotFound

    for left in reversed(range(_TRIES)):
        try:
            made = client.api.create_container(digest, command=["none"], platform=platform, labels=dict(labels or {}))
        except NotFound as failed:
            if not left or "snapshot" not in str(failed.explanation):
                raise
        else:
            return str(made["Id"])
    raise AssertionError  # the last try has raised
