"""What is missing on this machine."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

import shipyard
from verbs import verb


@verb("fix", "json")
def doctor(_: Context, fix: bool = False, json: bool = False) -> None:
    """Name everything that other verbs need and this machine lacks, with what mends it; starts nothing unless --fix."""
    shipyard.doctor.show(shipyard.doctor.visit(Path(__file__).parents[1], fix=fix), json=json)
