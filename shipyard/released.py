"""What a release was, put together for dist/: from the layouts, the journal, the SBOMs and the registry's tags."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from shipyard import release_page, sbom, signing_keys, versions
from shipyard.artifacts import Artifact, Attachment, Component, Published, Release, StepTime
from shipyard.layouts import Layout
from shipyard.world import TITLES, World


def release(world: World) -> Release:
    """Everything that dist/release.json tells."""
    entries, verified = world.journal.entries(), world.remembered("verify")
    attached = (verified or {}).get("attached") or {}
    key = signing_keys.public(world.project)
    return Release(
        version=world.version,
        commit=world.commit.revision,
        created=int(entries[0].seconds) if entries else world.commit.epoch,
        verified=verified is not None,
        public_key="" if signing_keys.keyless() or not key.is_file() else key.read_text(),
        images=tuple(_published(world, each, attached.get(each.key) or ()) for each in world.artifacts),
        steps=tuple(_steps(world)),
        components=_components(world),
        notes=tuple(_notes(world)),
    )


def _published(world: World, artifact: Artifact, attached: Sequence[Mapping[str, str]]) -> Published:
    path = artifact.repository.partition("/")[2]
    names = [artifact.tag, *versions.aliases(world.version, artifact.target)]
    found = [Attachment(each["kind"], each["subject"], each["signer"]) for each in attached]
    return Published(
        name=artifact.name,
        target=artifact.target,
        repository=artifact.repository,
        digest=artifact.digest,
        tags=tuple(name for name in names if world.registry.head(path, name) == artifact.digest),
        platforms=release_page.platforms(Layout(artifact.layout)),
        signatures=tuple(each for each in found if each.kind == "signature"),
        attestations=tuple(each for each in found if each.kind != "signature"),
        commit=world.commit.revision,
    )


def _steps(world: World) -> Iterator[StepTime]:
    """Each step as the journal has it; one that is under way has taken what it took until now."""
    entries = world.journal.entries()
    for name, title in TITLES.items():
        last = next((each for each in reversed(entries) if each.step == name), None)
        if last is None:
            continue
        if last.state == "begun":
            yield StepTime(name, title, "done", last.seconds, time.time() - last.seconds)
        else:
            begun, seconds = world.journal.span(name) or (last.seconds, 0.0)
            yield StepTime(name, title, last.state, begun, seconds)


def _components(world: World) -> tuple[Component, ...]:
    return sbom.summary(
        (artifact.key, sbom.path(world.folder, artifact, part).read_text())
        for artifact in world.artifacts
        for part in artifact.parts
    )


def _notes(world: World) -> Iterator[str]:
    """What a reader must know: what was waived and why, what was not tested."""
    if skipped := (world.remembered("repro") or {}).get("skipped"):
        yield f"The images were not rebuilt to compare their bytes: {skipped}"
    for platform in (world.remembered("test") or {}).get("untested") or ():
        yield f"The images for {platform} were not started: the machine that released them has no emulator for it."
