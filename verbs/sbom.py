"""Bills of materials of what was built for release."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

import shipyard
from verbs import verb

ROOT = Path(__file__).parents[1]


@verb("image", "json")
def sbom(_: Context, image: list[str], json: bool = False) -> None:
    """Write what is in each image of the release that was built last, and count it."""
    shipyard.sbom.show(shipyard.sbom.renew(shipyard.config.load(ROOT), image), json=json)
