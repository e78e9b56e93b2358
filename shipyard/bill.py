"""The bill of materials of one platform's image as a CycloneDX 1.6 text: the same bytes from the same image. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from shipyard import components
from shipyard.artifacts import Artifact, Commit, Part
from shipyard.components import Found

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

#: OCI annotations (image-spec, "Pre-Defined Annotation Keys") that a release's images carry as labels.
OCI = "org.opencontainers.image."


def architecture(part: Part) -> str:
    """``arm64`` of ``linux/arm64``."""
    return part.platform.partition("/")[2]


def document(
    artifact: Artifact, part: Part, commit: Commit, labels: Mapping[str, str], found: Sequence[Found], serial: str
) -> str:
    """The text. ``found`` is what is installed, ``labels`` are the image's own, ``serial`` is a ``urn:uuid:...``."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    version = labels.get(OCI + "version") or artifact.tag
    image = _image(artifact, part, version)
    every = [*found, Found(_ours(artifact, commit, labels, version), frozenset())]
    tool = Component(name="shipyard", version=version, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=UUID(serial),
        components=[each.component for each in every],
        metadata=BomMetaData(
            component=image,
            timestamp=datetime.fromtimestamp(commit.epoch, UTC),
            tools=ToolRepository(components=[tool]),
        ),
    )
    by_ref = {each.ref: each.component for each in every}
    for each in every:
        bom.register_dependency(each.component, [by_ref[ref] for ref in sorted(each.needs)])
    bom.register_dependency(image, [by_ref[ref] for ref in tops(every)])
    return JsonV1Dot6(bom).output_as_string() + "\n"


def tops(found: Iterable[Found]) -> Iterator[str]:
    """References from which every component is reached: those that nobody needs, and one of each ring that needs itself."""
    needs = {each.ref: each.needs for each in found}
    needed = set[str]().union(*needs.values())
    reached: set[str] = set()
    for ref in sorted(needs, key=lambda ref: (ref in needed, ref)):
        if ref in reached:
            continue
        yield ref
        waiting = {ref}
        while waiting:
            reached |= waiting
            waiting = set[str]().union(*(needs[each] for each in waiting)) - reached


def _image(artifact: Artifact, part: Part, version: str) -> Component:
    """What the document is about. It names no registry: the same image may lie in several."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    name = artifact.repository.rpartition("/")[2]
    url = PackageURL("oci", None, name, part.digest, {"arch": architecture(part), "tag": artifact.tag})
    return Component(
        name=name,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=url.to_string(),
        purl=url,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.digest.partition(":")[2])],
    )


def _ours(artifact: Artifact, commit: Commit, labels: Mapping[str, str], version: str) -> Component:
    """Our own code and configuration in the image: its version and the commit that it is from."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Commit as Origin
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from packageurl import PackageURL

    home, stated = labels.get(OCI + "source", ""), labels.get(OCI + "licenses", "")
    name = f"{artifact.repository.rpartition('/')[2]}-code"
    url = PackageURL("generic", None, name, version, {"vcs_url": f"git+{home}@{commit.revision}"} if home else {})
    return Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=url.to_string(),
        purl=url,
        description=labels.get(OCI + "title"),
        licenses=components.stated([stated] if stated else ()),
        pedigree=Pedigree(commits=[Origin(uid=commit.revision)]),
        external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(home))] if home else None,
    )
