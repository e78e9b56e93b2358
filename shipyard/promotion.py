"""The statements of channels that belong to a promotion: one for each repository whose moving tags it moves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from shipyard import channel_statements, channels, console, signing, versions
from shipyard.artifacts import Artifact
from shipyard.channels import Named
from shipyard.errors import RegistryFailed
from shipyard.models import Project
from shipyard.registry import Registry

Stated = Mapping[str, Mapping[str, Named]]


def wanted(artifacts: Iterable[tuple[Artifact, str]], moving: Mapping[str, Iterable[str]] | None = None) -> Stated:
    """What each repository's statement has to say of these images and their versions.

    ``moving`` are the tags that move, by image and target (``api-prod``); all that may lead to the version where it is
    None. A repository of which nothing moves is named too: its statement may have to be renewed.
    """
    found: dict[str, dict[str, Named]] = {}
    for artifact, version in artifacts:
        tags = versions.aliases(version, artifact.target) if moving is None else moving.get(artifact.key, ())
        named = found.setdefault(artifact.repository.partition("/")[2], {})
        named |= {tag: Named(artifact.digest, version) for tag in tags}
    return found


def settled(project: Project, registry: Registry, stated: Stated) -> bool:
    """Whether no statement has to be written: of a repository where nothing moves, only one that ends soon has to be."""
    ours = signing.trust(project)
    for repository, named in stated.items():
        found = channel_statements.read(project, registry, repository, ours)
        if (named or found.channels) and not channel_statements.settled(found, named, time.time()):
            return False
    return True


def state(project: Project, registry: Registry, stated: Stated) -> None:
    """Write those that have to be. Raises SigningFailed, AccessDenied and RegistryFailed."""
    ours = signing.trust(project)
    for repository, named in stated.items():
        if not named and channel_statements.read(project, registry, repository, ours).channels is None:
            continue
        if made := channel_statements.write(project, registry, repository, named):
            until = channels.moment(made.expires)
            console.info(f"{registry.host}/{repository}: statement {made.counter} of its channels holds until {until}")


def still(project: Project, registry: Registry, stated: Stated) -> None:
    """Raises RegistryFailed when a statement says something else by now: another checkout promoted at the same moment."""
    ours = signing.trust(project)
    for repository, named in stated.items():
        found = channel_statements.read(project, registry, repository, ours)
        if named and not (found.channels and found.channels.covers(named)):
            msg = (
                f"{registry.host}/{repository}: its statement of channels is not the one that was written "
                f"({found.problem or 'another promotion wrote it'}); run the same again"
            )
            raise RegistryFailed(msg)
