"""Reproducible builds: lock Debian packages, prove that a rebuild gives the same bytes."""

from __future__ import annotations

from invoke import Context

import shipyard
from shipyard import console
from verbs import here, verb


@verb("image", "json")
def lock(_: Context, image: list[str], json: bool = False) -> None:
    """Lock the Debian packages that the mirror has today, and show what changed."""
    shipyard.debian_locks.show(shipyard.debian_locks.refresh(*here(), image), json=json)


@verb("image", "json")
def repro(_: Context, image: list[str], json: bool = False) -> None:
    """Build the release images twice, the second time elsewhere and without cache, and compare their digests."""
    artifacts, differences = shipyard.repro.twice(*here(), image)
    if differences:
        if json:
            console.document(differences)
        raise shipyard.repro.failed(differences)
    console.answer(shipyard.repro.summary(artifacts), json=json)
