"""The stack of containers: bring it up, look at it, take it down."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import here, verb


@verb("detach")
def dev(_: Context, detach: bool = False) -> None:
    """Run the stack with mounted source, hot reload and all ports on 127.0.0.1; Ctrl-C stops it."""
    shipyard.stack.run(*here(), "dev", detach=detach)


@verb("detach")
def prod(_: Context, detach: bool = True) -> None:
    """Run the stack from production images; returns when it is healthy."""
    project, found = here()
    shipyard.overlays.check(project, found, "prod")
    shipyard.stack.run(project, found, "prod", detach=detach)


@verb("json")
def status(_: Context, json: bool = False) -> None:
    """Show overlay, services, health and ports of this checkout's stack."""
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
    shipyard.overlays.check(*here(), overlay)
