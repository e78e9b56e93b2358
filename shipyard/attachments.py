"""What hangs on an image in its registry: signatures and attestations, as cosign 3 puts them there.

They are found by the Referrers API, or, where a registry has none, by the tag that the distribution specification gives
them ("Referrers Tag Schema"): an index under the name ``sha256-<hex>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shipyard import dsse, oci, plain_text
from shipyard.dsse import Statement
from shipyard.errors import RegistryFailed
from shipyard.registry import Registry

#: Attachments of one digest that are looked at; a release makes two, each further owner or scanner one or two.
MOST = 256
#: Bytes of a bundle: an SBOM of some thousand packages has a few MB.
_BUNDLE = 32 * 1024 * 1024


#: Types that an attachment declares in its list when it is a bundle; some registries declare none, or that of its config.
_MAY_BE = ("", dsse.BUNDLE, "application/vnd.oci.empty.v1+json", oci.CONFIG)


class TooMany(RegistryFailed):
    """More is attached to a digest than is looked at."""


@dataclass(frozen=True)
class Attached:
    """One attachment: the digest of its manifest, and what it states, or why that cannot be read.

    ``bundle`` are its bytes; they are let go of once it has been judged.
    """

    digest: str
    statement: Statement | None
    problem: str = ""
    bundle: bytes = field(default=b"", repr=False)


def tag(digest: str) -> str:
    """The tag under which a registry without the Referrers API keeps what is attached to a digest."""
    return digest.replace(":", "-")


def find(registry: Registry, repository: str, digest: str) -> tuple[Attached, ...]:
    """Every bundle attached to a digest, whoever signed it; what else hangs there does not count. Raises as ``each``."""
    return tuple(each(registry, repository, digest))


def each(registry: Registry, repository: str, digest: str) -> Iterator[Attached]:
    """The same one by one, so that no more than one is in memory.

    What declares that it is something else than a bundle is left out, and each of the others is read by itself: whatever
    hangs beside a good one, in whatever order, changes nothing. Raises TooMany where more than ``MOST`` may be bundles,
    RegistryFailed and AccessDenied as the registry's client does. One that cannot be read is only told while the registry
    answers, for whoever may write there could hang it beside the good ones.
    """
    found = registry.referrers(repository, digest)
    if found is None:
        listed = registry.manifest(repository, tag(digest))
        if listed is None:
            return
        try:
            found = oci.manifests(oci.parse(listed[0]))
        except ValueError as problem:
            yield Attached(listed[2], None, f"the list of attachments is damaged: {problem}")
            return
    candidates = dict.fromkeys(one.digest for one in found if one.artifact in _MAY_BE)
    if len(candidates) > MOST:
        msg = (
            f"{registry.host}/{repository}: {len(candidates):,} signatures and attestations hang on {digest}, and at most "
            f"{MOST} are read: whether a good one is among them is not known; remove those that nobody needs"
        )
        raise TooMany(msg)
    for one in candidates:
        if attached := _read(registry, repository, one):
            yield attached


def _read(registry: Registry, repository: str, digest: str) -> Attached | None:
    try:
        if (manifest := registry.manifest(repository, digest)) is None:
            return Attached(digest, None, "its manifest is gone")
        layers = oci.blobs(oci.parse(manifest[0]))[1:]
        if [layer.media_type for layer in layers] != [dsse.BUNDLE]:
            return None
        bundle = registry.blob(repository, layers[0].digest, _BUNDLE)
        return (
            Attached(digest, dsse.parse(bundle), "", bundle)
            if bundle
            else Attached(digest, None, "its content is gone")
        )
    except (ValueError, RegistryFailed) as problem:
        registry.ping()  # one that does not answer at all raises here: it may hold what we did not see
        return Attached(digest, None, plain_text.shown(str(problem), 300))
