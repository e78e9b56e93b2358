"""The embedded registry, which a release goes to unless another one is named."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import verb


@verb(name="up")
def registry_up(_: Context) -> None:
    """Start the embedded registry unless it runs; only this machine reaches it."""
    console.answer(shipyard.local_registry.up())


@verb(name="down")
def registry_down(_: Context) -> None:
    """Stop the embedded registry; what was pushed stays."""
    console.step("stopped the registry" if shipyard.local_registry.down() else "no registry of ours is running")


@verb("json", name="status")
def registry_status(_: Context, json: bool = False) -> None:
    """Show whether the embedded registry runs; starts nothing."""
    console.answer(shipyard.local_registry.status(), json=json)
