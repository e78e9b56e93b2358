"""Only now the tags: the version's own, then the statement of channels, then X.Y, X and latest; then the git tag, then dist/.

What is remembered of a promotion keeps a rollback: a release that was promoted once moves no alias again, only
`invoke promote --version` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shipyard import console, promotion, publishing, release_page, signals, source, versions
from shipyard.artifacts import Artifact
from shipyard.channels import Named
from shipyard.released import release
from shipyard.world import Step, World


def _done(world: World) -> str:
    if not world.artifacts or source.tagged(world.root, world.tag) != world.commit.revision:
        return ""
    for artifact, names in _wanted(world, broke_off=world.journal.attempts("promote") > 0):
        if set(publishing.tags_of(world.registry, artifact, names).values()) != {artifact.digest}:
            return ""
    if not _written(world) or not promotion.settled(world.project, world.registry, _stated(world, ())):
        return ""
    _tell(world)
    return f"{world.version} is public, tagged {world.tag}"


def _run(world: World) -> Mapping[str, Any]:
    world.ours()
    wanted = list(_wanted(world, broke_off=world.journal.attempts("promote") > 1))  # one is under way
    _unclaimed(world)
    moved: dict[str, dict[str, str | None]] = {}

    def note(artifact: Artifact, made: list[publishing.Moved]) -> None:
        for each in made:
            moved.setdefault(artifact.key, {})[each.tag] = each.before

    # Every image has the version's own tag before an alias of any moves: X.Y.Z is complete when `latest` leads there.
    for artifact, _ in wanted:
        world.ours()
        note(artifact, publishing.claim(world.registry, artifact))
    # The lease is this checkout's: another one may have claimed the version at the same moment.
    _unclaimed(world)
    # Before the tags move: in between a stranger is told that they are older than what was promoted, never less.
    stated = _stated(world, wanted)
    world.ours()
    promotion.state(world.project, world.registry, stated)
    for artifact, names in wanted:
        for name in names[1:]:
            world.ours()
            note(artifact, publishing.move(world.registry, artifact, [name]))
    _unclaimed(world)
    promotion.still(world.project, world.registry, stated)
    world.ours()
    if source.tag(world.root, world.tag, world.commit.revision, f"Release {world.version}"):
        console.info(f"git tag {world.tag} at {world.commit.revision[:12]}; `git push origin {world.tag}` publishes it")
    _tell(world)
    facts = {"digests": world.digests, "registry": world.options.registry, "moved": moved}
    _write(world)
    return facts


def _stated(world: World, wanted: Iterable[tuple[Artifact, list[str]]]) -> Mapping[str, Mapping[str, Named]]:
    """What the statements of channels have to say: the aliases that move; of all repositories that have one already."""
    moving = {artifact.key: names[1:] for artifact, names in wanted}
    return promotion.wanted(((each, world.version) for each in world.artifacts), moving)


def _wanted(world: World, *, broke_off: bool) -> Iterator[tuple[Artifact, list[str]]]:
    """The tags that each image must have, its own first; ``broke_off`` says that an earlier promotion did not end well."""
    before = _promoted(world, broke_off=broke_off)
    for artifact in world.artifacts:
        path = artifact.repository.partition("/")[2]
        found = versions.moving(world.version, artifact.target, world.registry.tags(path))
        yield artifact, found[:1] if before else found


def _promoted(world: World, *, broke_off: bool) -> bool:
    """Whether this release was public before: then its aliases may have been moved since, and stay where they are."""
    same = {"digests": world.digests, "registry": world.options.registry}
    if world.journal.facts("promote", **same) is not None:
        return True
    if broke_off:
        return False
    # Another checkout may have released it, and led its aliases elsewhere since; `_tell` names those.
    return all(_own(world, artifact) == artifact.digest for artifact in world.artifacts)


def _own(world: World, artifact: Artifact) -> str | None:
    return publishing.tags_of(world.registry, artifact, [artifact.tag])[artifact.tag]


def _unclaimed(world: World) -> None:
    """Raises VerificationFailed when a version's own tag names other bytes."""
    for artifact in world.artifacts:
        publishing.unclaimed(world.registry, artifact)


def _tell(world: World) -> None:
    """Name aliases that lead elsewhere although this is the newest release: somebody rolled back, or moved them."""
    for artifact in world.artifacts:
        path = artifact.repository.partition("/")[2]
        aliases = versions.moving(world.version, artifact.target, world.registry.tags(path))[1:]
        for name, digest in publishing.tags_of(world.registry, artifact, aliases).items():
            if digest != artifact.digest:
                console.warn(
                    f"{artifact.repository}:{name} names {digest or 'nothing'}; "
                    f"`invoke promote --version {world.version}` moves it here"
                )


def _written(world: World) -> bool:
    """Whether dist/ tells of this very release."""
    folder = world.root / "dist"
    found = release_page.earlier(folder) or {}
    digests = {f"{each['name']}-{each['target']}": each["digest"] for each in found.get("images", ())}
    same = (found.get("version"), found.get("commit"), digests) == (world.version, world.commit.revision, world.digests)
    return same and (folder / release_page.HTML).is_file()


def _write(world: World) -> None:
    folder = world.root / "dist"
    content = release_page.document(release(world), release_page.earlier(folder))
    with signals.whole():
        release_page.write(folder, content)
    console.info(f"wrote dist/{release_page.JSON} and dist/{release_page.HTML}")


STEP = Step("promote", _done, _run)
