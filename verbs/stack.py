"""The stack of containers: bring it up, move it from phase to phase, look at it, take it down."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import here, verb

ADD_ONS = ("gpu", "granger", "monitoring", "scale")


@verb("api", "detach", *ADD_ONS)
def host(
    _: Context,
    scale: list[str],
    api: bool = False,
    detach: bool = True,
    gpu: bool = False,
    granger: bool = False,
    monitoring: bool = False,
) -> None:
    """Phase 1: everything in containers but the API, which runs on this host; --api starts it."""
    _run("host", detach, scale, api=api, gpu=gpu, granger=granger, monitoring=monitoring)


@verb("detach", *ADD_ONS)
def hybrid(
    _: Context,
    scale: list[str],
    detach: bool = True,
    gpu: bool = False,
    granger: bool = False,
    monitoring: bool = False,
) -> None:
    """Phase 2: everything in containers, with a debugger's port, debug logs, redis and claude-proxy on 127.0.0.1."""
    _run("hybrid", detach, scale, gpu=gpu, granger=granger, monitoring=monitoring)


@verb("detach", *ADD_ONS)
def prod(
    _: Context,
    scale: list[str],
    detach: bool = True,
    gpu: bool = False,
    granger: bool = False,
    monitoring: bool = False,
) -> None:
    """Phase 3: production images, hardened, nothing published but the API."""
    _run("prod", detach, scale, gpu=gpu, granger=granger, monitoring=monitoring)


@verb("detach", *ADD_ONS)
def dev(
    _: Context,
    scale: list[str],
    detach: bool = False,
    gpu: bool = False,
    granger: bool = False,
    monitoring: bool = False,
) -> None:
    """Mounted source, hot reload, debug logs and all ports on 127.0.0.1; Ctrl-C stops it."""
    _run("dev", detach, scale, gpu=gpu, granger=granger, monitoring=monitoring)


def _run(overlay: str, detach: bool, scale: list[str], *, api: bool = False, **add_ons: bool) -> None:
    selection = shipyard.overlays.select(overlay, [name for name, wanted in add_ons.items() if wanted], scale)
    shipyard.stack.run(*here(), selection, detach=detach, host=api)


@verb("json")
def status(_: Context, json: bool = False) -> None:
    """Show phase, services, health, versions and ports of this checkout's stack, and since when."""
    console.answer(shipyard.stack.status(*here()), json=json)


@verb("service", "follow", "tail")
def logs(_: Context, service: str = "", follow: bool = False, tail: int = 200) -> None:
    """Print the services' logs."""
    for line in shipyard.stack.logs(*here(), service=service, follow=follow, tail=tail):
        console.result(line)


@verb("volumes")
def down(_: Context, volumes: bool = False) -> None:
    """Stop the stack and remove its containers and networks; volumes stay."""
    shipyard.stack.down(*here(), volumes=volumes)


@verb("overlay", "diff", "json")
def config(_: Context, overlay: str = "prod", diff: str = "", json: bool = False) -> None:
    """Show what an overlay comes to, or how another differs; production is held against the policy."""
    console.answer(shipyard.overlays.show(*here(), overlay, diff), json=json, empty="no difference")
    shipyard.overlays.check(*here(), shipyard.overlays.select(overlay))
