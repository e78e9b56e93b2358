"""Releases: from VERSION to signed, verified, public images; and back to an earlier one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from invoke import Context

import shipyard
from shipyard import console
from shipyard.errors import UnknownName
from verbs import verb

ROOT = Path(__file__).parents[1]
#: Where releases go, unless --registry says otherwise.
REGISTRY = "SHIPYARD_REGISTRY"


@verb("bump", "registry", "dry-run", "json", "allow-detached", "skip-repro")
def release(
    _: Context,
    bump: str = "",
    registry: str = "",
    dry_run: bool = False,
    json: bool = False,
    allow_detached: bool = False,
    skip_repro: str = "",
) -> None:
    """Build, test, push, sign, verify and promote VERSION; run it again after anything that went wrong."""
    options = shipyard.world.Options(destination(registry), bump, dry_run, allow_detached, skip_repro)
    _release(options, json=json)


@verb("bump", "registry", "allow-detached")
def preflight(_: Context, bump: str = "", registry: str = "", allow_detached: bool = False) -> None:
    """Name everything that would stop a release, all of it at once; changes nothing."""
    _until("preflight", registry, bump=bump, allow_detached=allow_detached)


@verb("part", "registry", "allow-detached")
def bump(_: Context, part: str, registry: str = "", allow_detached: bool = False) -> None:
    """Make VERSION the next one, CHANGELOG.md from changes/, and one commit of both; nothing is built."""
    if not part.strip():
        msg = "nothing is named; name major, minor, patch or a version"
        raise UnknownName(msg)
    _until("bump", registry, bump=part, allow_detached=allow_detached)


@verb("bump", "registry", "json", "allow-detached")
def test(_: Context, bump: str = "", registry: str = "", json: bool = False, allow_detached: bool = False) -> None:
    """As far as the images' tests: build what a release would publish and test those very bytes."""
    _until("test", registry, json=json, bump=bump, allow_detached=allow_detached)


@verb("bump", "registry", "json", "allow-detached", "skip-repro")
def push(
    _: Context,
    bump: str = "",
    registry: str = "",
    json: bool = False,
    allow_detached: bool = False,
    skip_repro: str = "",
) -> None:
    """As far as the registry: build, test and push by digest; nothing is signed, no tag is written."""
    _until("push", registry, json=json, bump=bump, allow_detached=allow_detached, skip_repro=skip_repro)


@verb("version", "registry", "json")
def promote(_: Context, version: str, registry: str = "", json: bool = False) -> None:
    """Move X.Y, X and latest to a version that is released already, after verifying it: a rollback, or its end."""
    found = shipyard.rollback.promote(shipyard.config.load(ROOT), version, destination(registry))
    if json:
        console.document(found)


def _until(step: str, registry: str, *, json: bool = False, **options: Any) -> None:
    _release(shipyard.world.Options(destination(registry), until=step, **options), json=json)


def _release(options: Any, *, json: bool) -> None:
    found = shipyard.pipeline.release(shipyard.config.load(ROOT), shipyard.engine.find, options)
    if json:
        console.document(found)
    elif options.dry_run:
        shipyard.pipeline.show(found)


def destination(given: str) -> str:
    """The registry that is named, that SHIPYARD_REGISTRY names, or the embedded one."""
    found: str = shipyard.oci.parse_registry(given or os.environ.get(REGISTRY) or shipyard.local_registry.address())
    return found
