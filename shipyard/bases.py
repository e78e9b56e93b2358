"""The base image: pulled and pinned by digest where a hub can be reached, else bootstrapped from Debian packages.

The decision is made once for an engine and remembered. Dockerfiles name ``debian:trixie-slim`` either way; the build
request says, as a named context, which image that is.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from shipyard import console, machine
from shipyard.commands import debian
from shipyard.engine import api, packages
from shipyard.engine.lock import lock
from shipyard.engine.types import Engine
from shipyard.errors import BaseUnavailable, CommandFailed, DiskFull, EngineMissing
from shipyard.models import Base, BaseImage
from shipyard.run import run

_STATE = "base.json"
#: Repository under which a bootstrapped base is kept; a user's own ``debian`` images are never touched.
REPOSITORY = "shipyard-base"
#: Seconds a hub gets to say which digest a tag has.
_ASK = 20.0


def remembered(engine: Engine, base: BaseImage) -> Base | None:
    """The decision made before for this engine and image, without asking anybody."""
    entry = machine.read(_STATE).get(_key(engine, base))
    try:
        return Base(entry["reference"], entry["digest"], entry["origin"]) if entry else None
    except (KeyError, TypeError):
        return None


def ensure(engine: Engine, base: BaseImage, *, refresh: bool = False) -> Base:
    """The base image, present in the engine. Raises BaseUnavailable when it can be neither pulled nor bootstrapped."""
    known = remembered(engine, base)
    if known and not refresh and sound(engine, known):
        return known
    with lock("preparing the base image"):
        again = remembered(engine, base)
        if again and not refresh and sound(engine, again):
            return again
        found = _pull(engine, base) or _bootstrap(engine, base)
        entry = {"reference": found.reference, "digest": found.digest, "origin": found.origin}
        machine.write(_STATE, {**machine.read(_STATE), _key(engine, base): entry})
    return found


def sound(engine: Engine, base: Base) -> bool:
    """Whether the engine has this base, with these bytes: whoever uses the engine may give a bootstrapped one's name away.

    Its digest is that of its one layer, unpacked. One that was pulled is named by its digest, which no tag can change.
    """
    found = api.image(engine.host, base.reference)
    layers = ((found or {}).get("RootFS") or {}).get("Layers")
    return found is not None and (base.origin != "bootstrap" or layers == [base.digest])


def upstream(base: BaseImage) -> str:
    """Where the base is pulled from: the image's own name, or a mirror of it named by ``SHIPYARD_BASE_IMAGE``."""
    return os.environ.get("SHIPYARD_BASE_IMAGE") or base.image


def _key(engine: Engine, base: BaseImage) -> str:
    return f"{engine.host} {upstream(base)}"


def _pull(engine: Engine, base: BaseImage) -> Base | None:
    name = upstream(base)
    # "{{json .Manifest}}": asked for the digest alone, buildx 0.29 prints its whole summary for a single manifest.
    asked = [engine.docker, "buildx", "imagetools", "inspect", name, "--format", "{{json .Manifest}}"]
    try:
        digest = json.loads(run(asked, env=engine.environment(), timeout=_ASK).stdout)["digest"]
    except CommandFailed as failed:
        console.info(f"{name} cannot be pulled ({_reason(failed)})")
        return None
    pinned = f"{name.rpartition(':')[0]}@{digest}"
    console.step(f"pulling the base image {pinned}")
    try:
        run([engine.docker, "pull", "--quiet", pinned], env=engine.environment(), timeout=900)
    except CommandFailed as failed:
        console.warn(f"{pinned} could not be pulled ({_reason(failed)})")
        return None
    return Base(pinned, digest, "hub")


def _reason(failed: CommandFailed) -> str:
    lines = failed.stderr.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ")[-160:] if lines else "no answer"


def _bootstrap(engine: Engine, base: BaseImage) -> Base:
    if obstacle := packages.obstacle():
        msg = (
            f"{upstream(base)} cannot be pulled, and it cannot be bootstrapped from Debian packages because {obstacle}. "
            "Connect this machine to a hub, or name a mirror in SHIPYARD_BASE_IMAGE"
        )
        raise BaseUnavailable(msg)
    console.step(f"bootstrapping {base.image} from Debian packages")
    with tempfile.TemporaryDirectory(prefix="shipyard-base-") as scratch:
        tar = Path(scratch, "base.tar")
        try:
            argv = debian.bootstrap(packages.mmdebstrap(), base.suite, tar, keyring=packages.keyring())
            run(argv, env=debian.epoch(packages.environment()), timeout=900)
            return _imported(engine, tar)
        except (CommandFailed, EngineMissing) as failed:
            if "No space left on device" in str(failed):
                msg = f"no space left while bootstrapping the base image below {scratch} or in the engine's data folder"
                raise DiskFull(msg) from failed
            msg = f"the base image could not be bootstrapped; is a Debian mirror reachable?\n{failed}"
            raise BaseUnavailable(msg) from failed


def _imported(engine: Engine, tar: Path) -> Base:
    """Import the tar under a name made of its content, so that two bootstraps with the same packages are one image."""
    import hashlib

    with tar.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
    reference = f"{REPOSITORY}:{content[:16]}"
    base = Base(reference, f"sha256:{content}", "bootstrap")
    if not sound(engine, base):
        run([engine.docker, "import", str(tar), reference], env=engine.environment(), timeout=300)
    return base
