"""What hangs on an image in its registry: signatures and attestations, as cosign 3 puts them there.

They are found by the Referrers API, or, where a registry has none, by the tag that the distribution specification gives
them ("Referrers Tag Schema"): an index under the name ``sha256-<hex>``.
"""

from __future__ import annotations

from dataclasses import dataclass

from shipyard import dsse, oci
from shipyard.dsse import Statement
from shipyard.errors import RegistryFailed
from shipyard.registry import Registry

#: Attachments of one digest that are looked at; a release makes two.
_MOST = 64


@dataclass(frozen=True)
class Attached:
    """One attachment: the digest of its manifest, and what it states, or why that cannot be read."""

    digest: str
    statement: Statement | None
    problem: str = ""


def tag(digest: str) -> str:
    """The tag under which a registry without the Referrers API keeps what is attached to a digest."""
    return digest.replace(":", "-")


def find(registry: Registry, repository: str, digest: str) -> tuple[Attached, ...]:
    """Every bundle attached to a digest, whoever signed it; what else hangs there does not count.

    Raises RegistryFailed and AccessDenied as the registry's client does; one that cannot be read is only told while the
    registry answers, for whoever may write there could hang it beside the good ones.
    """
    found = registry.referrers(repository, digest)
    if found is None:
        listed = registry.manifest(repository, tag(digest))
        if listed is None:
            return ()
        try:
            found = oci.manifests(oci.parse(listed[0]))
        except ValueError as problem:
            return (Attached(listed[2], None, f"the list of attachments is damaged: {problem}"),)
    attached = (_read(registry, repository, each.digest) for each in found[:_MOST])
    return tuple(each for each in attached if each)


def _read(registry: Registry, repository: str, digest: str) -> Attached | None:
    try:
        if (manifest := registry.manifest(repository, digest)) is None:
            return Attached(digest, None, "its manifest is gone")
        layers = oci.blobs(oci.parse(manifest[0]))[1:]
        if [each.media_type for each in layers] != [dsse.BUNDLE]:
            return None
        bundle = registry.blob(repository, layers[0].digest)
        return Attached(digest, dsse.parse(bundle)) if bundle else Attached(digest, None, "its content is gone")
    except (ValueError, RegistryFailed) as problem:
        registry.ping()  # one that does not answer at all raises here: it may hold what we did not see
        return Attached(digest, None, str(problem))
