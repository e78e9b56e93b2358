"""The Docker engine that everything else uses."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import verb


@verb(name="up")
def engine_up(_: Context) -> None:
    """Start the embedded engine unless an engine is there already."""
    shipyard.engine.up()
    console.answer(shipyard.engine.status())


@verb(name="down")
def engine_down(_: Context) -> None:
    """Stop the embedded engine and every container in it; data stays."""
    console.step("stopped the embedded engine" if shipyard.engine.down() else "no embedded engine is running")


@verb("json", name="status")
def engine_status(_: Context, json: bool = False) -> None:
    """Show which Docker engine is used; starts nothing."""
    console.answer(shipyard.engine.status(), json=json)


@verb(name="env")
def engine_env(_: Context) -> None:
    """Print shell lines that point any docker client at the engine: eval "$(invoke engine.env)"."""
    for line in shipyard.engine.find().exports():
        console.result(line)
