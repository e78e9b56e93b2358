"""Images: build them, say why, show what is in them."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import here, verb


@verb("image", "target", "platform", "no-cache", "json")
def build(
    _: Context, image: list[str], target: str = "prod", platform: str = "", no_cache: bool = False, json: bool = False
) -> None:
    """Build images; those whose inputs did not change are skipped."""
    request = shipyard.images.Request(tuple(image), target, platform=platform, no_cache=no_cache)
    shipyard.images.show(shipyard.images.build(*here(), request), json=json)


@verb("image", "target", "json")
def why(_: Context, image: list[str], target: str = "prod", json: bool = False) -> None:
    """Name the files that changed since each image was built."""
    request = shipyard.images.Request(tuple(image), target)
    console.answer(shipyard.images.why(*here(), request), json=json, empty="up to date")


@verb("image", "target")
def size(_: Context, image: list[str], target: str = "prod") -> None:
    """Show each built image's size, its budget and its biggest files."""
    shipyard.images.size(*here(), shipyard.images.Request(tuple(image), target))


@verb("refresh", "json")
def base(_: Context, refresh: bool = False, json: bool = False) -> None:
    """Show which base image builds start from; prepare it if there is none."""
    project, found = here()
    console.answer(shipyard.bases.ensure(found, project.base, refresh=refresh), json=json)
