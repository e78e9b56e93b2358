"""Everything that would stop a release, before a minute is spent: all of it at once, nothing changed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from shipyard import changelog, console, signing_keys, source, tags, versions
from shipyard.diagnosis import engine as of_engine
from shipyard.diagnosis import finding, numbers, tools
from shipyard.diagnosis.machine import DRIFT, LEAST
from shipyard.engine import api
from shipyard.engine.types import home
from shipyard.errors import DiskFull, EngineFailed, ReleaseRefused, ShipyardError, SigningFailed
from shipyard.published import Reader
from shipyard.run import run
from shipyard.world import Step, World

#: What the targets with CUDA need beside LEAST: their layouts and those of the rebuild, compressed, and the compiler's files.
CUDA = 6 * 10**9
_REVISION = "org.opencontainers.image.revision"
#: Steps that read or write images in the engine, steps that write to the registry, steps that sign.
_ENGINE = ("build", "test", "repro")
_WRITES = ("push", "sign", "attest", "promote")
_SIGNS = ("sign", "attest", "promote")


def faults(world: World) -> list[ShipyardError]:
    """What is wrong, each fault with its own class. Writes nothing but an upload that is begun and given up at once."""
    found: list[ShipyardError] = []
    for question in (_tree, _version, _changelog, _registry, _signing, _disk, _builder):
        try:
            for text in question(world):
                found.append(ReleaseRefused(text))
        except ShipyardError as failed:
            found.append(failed)
    return found


def refuse(found: list[ShipyardError]) -> None:
    """Raise the one fault as what it is, several as ReleaseRefused with all of them."""
    if len(found) == 1:
        raise found[0]
    if found:
        refused = ReleaseRefused("\n".join(f"- {fault}" for fault in found))
        refused.see = next((fault.see for fault in found if fault.see), "")
        raise refused


def _needs(world: World, steps: tuple[str, ...]) -> bool:
    return any(name in world.pending for name in steps)


def _tree(world: World) -> Iterator[str]:
    dirty = source.changes(world.root)
    going = (world.journal.unfinished("bump") or {}).get("commit")
    if dirty and not (going and "bump" in world.pending and source.halfway(world.root, going)):
        more = f" and {len(dirty) - 5} more" if len(dirty) > 5 else ""
        yield f"the tree is not clean: {', '.join(dirty[:5])}{more}; commit, ignore or remove them"
    if not world.commit.branch and not world.options.allow_detached:
        yield f"HEAD is detached at {world.commit.revision[:12]}; check out a branch, or say --allow-detached"
    if source.shallow(world.root):
        yield "this is a shallow clone, which may lack tags; run `git fetch --unshallow --tags`"
    if world.commit.epoch > time.time() + DRIFT:
        when = datetime.fromtimestamp(world.commit.epoch, UTC).strftime("%F %T UTC")
        yield f"the commit is of the future ({when}); set this machine's clock, or commit again"
    if _needs(world, ("bump", "promote")):
        source.identity(world.root)


def _version(world: World) -> Iterator[str]:
    if reason := versions.problem(world.version):
        yield reason
    found = source.tagged(world.root, world.tag)
    if found and (not world.bumped or found != world.commit.revision):
        yield _released(world, f"the git tag {world.tag} names commit {found[:12]}")


def _changelog(world: World) -> Iterator[str]:
    if wrong := changelog.misnamed(world.root):
        kinds = "feature, bugfix, doc, removal or misc"
        yield f"{', '.join(wrong)}: not the name of a fragment; write changes/NAME.KIND.md, KIND being {kinds}"
    known, fresh = changelog.has(world.root, world.version), changelog.fragments(world.root)
    if world.journal.unfinished("bump"):
        return  # killed, it may have taken the fragments away already
    if not world.bumped and known:
        yield f"CHANGELOG.md has a chapter of {world.version}, which VERSION is not yet; remove it, --bump writes it"
    elif not fresh and not known:
        yield f"changes/ has no fragment, and CHANGELOG.md no chapter of {world.version}; say in changes/ what is new"


def _registry(world: World) -> Iterator[str]:
    """It answers, agrees about the time, has nothing else under this version, and takes writes."""
    clock = world.registry.ping()
    if clock is not None and abs(clock - time.time()) > DRIFT:
        yield f"the clock of {world.registry.host} differs from ours by {clock - time.time():.0f} s; set the wrong one"
    for image, target in world.images:
        path, tag = world.path(image), tags.tag(world.version, target)
        found = world.registry.head(path, tag)
        built = world.digests.get(f"{image.name}-{target}")
        if found is None or found == built:
            continue
        if built:
            yield (
                f"{world.repository(image)}:{tag} names {found}, and {built} was built of {world.commit.revision[:12]}; "
                "was the tag moved? lead it back by hand, or choose a new version with --bump"
            )
            continue
        revision = Reader(world.registry, path, tag).read(found).label(_REVISION)
        if not world.bumped or revision != world.commit.revision:
            yield _released(world, f"{world.repository(image)}:{tag} is of commit {revision[:12] or 'unknown'}")
    if _needs(world, _WRITES):
        for name in dict.fromkeys(image.name for image, _ in world.images):
            world.registry.writable(world.path(world.project.images[name]))


def _released(world: World, why: str) -> str:
    here = f", and {world.commit.revision[:12]} is checked out" if world.bumped else ""
    return f"{world.version} is released already with other content: {why}{here}; choose a new version with --bump"


def _signing(world: World) -> Iterator[str]:
    if _needs(world, _SIGNS) and (found := signing_keys.faults(world.project)):
        raise SigningFailed("\n".join(map(str, found)))
    yield from ()


def _disk(world: World) -> Iterator[str]:
    if not _needs(world, _ENGINE):
        return
    needed = max(LEAST + CUDA * any(target == "cuda" for _, target in world.images), 2 * _largest(world))
    for folder in dict.fromkeys((world.root, home())):
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        if free < needed:
            has, needs = console.megabytes(free), console.megabytes(needed)
            msg = f"{folder} has {has} left, and a release needs {needs}; make room, for example with `docker builder prune`"
            raise DiskFull(msg)
    yield from ()


def _largest(world: World) -> int:
    """Bytes of the largest release that is still here: its layouts are about what the next one's will be."""
    folders = [each for each in world.releases.glob("*") if each.is_dir()]
    return max((sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) for each in folders), default=0)


def _builder(world: World) -> Iterator[str]:
    if not _needs(world, _ENGINE):
        return
    store = of_engine.store(api.get(world.engine.host, "/info"), world.engine.host)
    if store.state == finding.FAIL:
        yield f"{store.seen}; {'; '.join(store.mend)}"
    found = run([world.engine.docker, "buildx", "version"], env=world.engine.environment(), check=False, timeout=60)
    if found.status:
        oldest = numbers.show(tools.BUILDX.oldest)
        msg = f"docker buildx does not run ({found.stderr.strip()[-200:]}); install it, version {oldest} or newer"
        raise EngineFailed(msg)


def _done(_: World) -> str:
    return ""  # asked anew by every run


def _run(world: World) -> Mapping[str, Any]:
    refuse(faults(world))
    return {}


STEP = Step("preflight", _done, _run)
