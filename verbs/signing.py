"""The signing key, signing what was pushed, and verifying what is published."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

import shipyard
from shipyard import console
from shipyard.errors import UnknownName
from verbs import verb
from verbs.release import destination

ROOT = Path(__file__).parents[1]


@verb(name="init")
def signing_init(_: Context) -> None:
    """Make the key pair that signs releases, once."""
    made = shipyard.signing_keys.init(shipyard.config.load(ROOT))
    console.step("made " + ", ".join(made.created) if made.created else "there is a signing key already")
    console.info("commit cosign.pub: with it anybody verifies a release")
    console.info("keep secrets/signing/ to yourself, and a copy of it: who has it can sign, who lost it cannot")


@verb("registry", "json", "allow-detached", "skip-repro")
def sign(
    _: Context, registry: str = "", json: bool = False, allow_detached: bool = False, skip_repro: str = ""
) -> None:
    """As far as signatures and attestations: build, test, push, sign; no tag is written."""
    options = shipyard.world.Options(
        destination(registry), allow_detached=allow_detached, skip_repro=skip_repro, until="attest"
    )
    found = shipyard.pipeline.release(shipyard.config.load(ROOT), shipyard.engine.find, options)
    if json:
        console.document(found)


@verb("what", "registry", "json", "deep", "timeout", "allow-older")
def verify(
    _: Context,
    what: str,
    registry: str = "",
    json: bool = False,
    deep: bool = False,
    timeout: float = 0.0,
    allow_older: bool = False,
) -> None:
    """Verify a version, latest, X, X.Y, a reference or a digest from the registry, with the public key only."""
    options = shipyard.verification.Options(deep=deep, timeout=seconds(timeout), allow_older=allow_older)
    report = shipyard.verification.verify(shipyard.config.load(ROOT), what, destination(registry), options)
    shipyard.verification.show(report, json=json)


def seconds(given: float) -> float:
    """A time limit. Raises UnknownName for what is none."""
    if not 0 <= given < 10**7:
        msg = f"--timeout {given:g} is no number of seconds; write for example --timeout 300"
        raise UnknownName(msg)
    return given
