"""Names, digests and documents of the OCI image and distribution specifications (both 1.1). Pure functions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from shipyard import strict_json
from shipyard.errors import UnknownName

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
#: Documents that list manifests, and documents that list blobs.
INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
#: Bytes of a manifest: what the distribution specification asks registries to take at least, and what they take at most.
LONGEST = 4 * 1024 * 1024
#: Entries of an index or of a list of attachments that are read: 4 MiB have no more than about 20,000.
MOST_LISTED = 20_000
#: Layers of an image that are read; a container's root file system has at most 127 (moby, MaxLayerDepth).
MOST_LAYERS = 256
#: Members and items of an index, a manifest or a config: an entry of a list has about a dozen.
_COUNT = 400_000

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(?:/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*)?(?:; ?[\x20-\x7e]*)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# The grammar of github.com/distribution/reference, which docker, cosign and every registry use.
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
#: Characters of a repository's name with its registry (github.com/distribution/reference, NameTotalLengthMax).
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Descriptor:
    """What a document says of another one or of a blob. ``size`` in bytes; ``platform`` is empty when none is named.

    ``artifact`` is the type that a list of attachments declares; empty when it declares none.
    """

    media_type: str
    digest: str
    size: int
    platform: str = ""
    artifact: str = ""


@dataclass(frozen=True)
class Reference:
    """A name of an image. ``registry``, ``tag`` and ``digest`` are empty when the text does not name them."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def digest(data: bytes) -> str:
    """The digest of some bytes: ``sha256:<64 hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    """Whether it is a SHA-256 digest; no other algorithm is used here."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether it can be a tag."""
    return _TAG.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """``[registry/]repository[:tag][@digest]`` in its parts; nothing is added that is not written.

    The first part is a registry when it has a dot, a colon or brackets, or is ``localhost``: docker's own rule.
    Raises UnknownName saying which part is wrong.
    """
    rest, at, found = text.partition("@")
    if at and not is_digest(found):
        _refuse(text, f"{found!r} is no digest; one is sha256: and 64 lower-case hexadecimal digits")
    first, slash, path = rest.partition("/")
    registry = first if slash and (first == "localhost" or re.search(r"[.:\[]", first)) else ""
    name, colon, tag = (path if registry else rest).partition(":")
    if registry and not _HOST.fullmatch(registry):
        _refuse(text, f"{registry!r} is no registry; one is HOST or HOST:PORT")
    if colon and not is_tag(tag):
        _refuse(text, f"{tag!r} is no tag; one has letters, digits, '_', '.' and '-', at most 128")
    if not _REPOSITORY.fullmatch(name) or len(registry) + len(name) >= _LONGEST_NAME:
        _refuse(
            text, f"{name!r} is no repository; one has lower-case letters and digits, parted by '/', '.', '_' or '-'"
        )
    return Reference(registry, name, tag, found)


def parse_registry(text: str) -> str:
    """``HOST[:PORT][/PREFIX]`` as it is, without a slash at its end. Raises UnknownName, which never shows a password."""
    host, slash, prefix = text.rstrip("/").partition("/")
    port = host.rpartition(":")[2] if ":" in host.rpartition("]")[2] else "1"
    reason = ""
    if "@" in text:
        text, reason = (
            text.rpartition("@")[2],
            "it holds a login; use `docker login` or SHIPYARD_REGISTRY_PASSWORD_FILE",
        )
    elif "://" in text:
        reason = "it begins with a scheme; leave that out"
    elif not _HOST.fullmatch(host) or not port.isdigit() or not 0 < int(port) < 65536:
        reason = f"{host!r} is no HOST or HOST:PORT"
    elif slash and not _REPOSITORY.fullmatch(prefix):
        reason = f"{prefix!r} is no prefix; one has lower-case letters and digits, parted by '/', '.', '_' or '-'"
    if reason:
        msg = f"{text!r} is no registry (--registry, SHIPYARD_REGISTRY): {reason}"
        raise UnknownName(msg)
    return text.rstrip("/")


def _refuse(text: str, reason: str) -> None:
    msg = f"{text!r} is no reference of an image: {reason}"
    raise UnknownName(msg)


def parse(raw: bytes) -> dict[str, Any]:
    """An index, a manifest or a config as its document. Raises ValueError when it is not a JSON object."""
    return strict_json.table(raw, count=_COUNT)


def media_type(document: Mapping[str, Any]) -> str:
    """The kind of a document: what it says, else what it looks like (OCI's index and manifest may leave it out).

    Raises ValueError when it says something that is no media type.
    """
    if "mediaType" in document:
        return _kind(document["mediaType"]) or MANIFEST
    return INDEX if "manifests" in document else MANIFEST


def descriptor(document: Any) -> Descriptor:
    """One descriptor. Raises ValueError when digest or size are missing or strange."""
    try:
        found = strict_json.mapping(document, "entry")
        digest = strict_json.text(found.get("digest"), "digest")
        if not is_digest(digest):
            _strange(f"its digest is {digest[:80]!r}")
        size, kind = strict_json.size(found.get("size"), "size"), _kind(found.get("mediaType"))
        return Descriptor(kind, digest, size, platform(found.get("platform")), _kind(found.get("artifactType")))
    except strict_json.Malformed as problem:
        msg = f"not a descriptor with a SHA-256 digest and a size: {problem}"
        raise strict_json.Malformed(msg) from None


def _kind(value: Any) -> str:
    """A media type (RFC 6838); empty where it is left out."""
    said = strict_json.optional_text(value, "media type", most=255)
    if said and not _MEDIA_TYPE.fullmatch(said):
        _strange(f"{said[:80]!r} is no media type")
    return said


def _strange(reason: str) -> NoReturn:
    raise strict_json.Malformed(reason)


def platform(document: Any) -> str:
    """``os/architecture[/variant]``; the variant that is the only one in use, arm64's v8, is left out as docker does.

    Raises ValueError when one of them is no string.
    """
    if not isinstance(document, dict) or not document.get("os"):
        return ""
    parts = [strict_json.optional_text(document.get(key), key, most=64) for key in ("os", "architecture", "variant")]
    if parts[1:] == ["arm64", "v8"]:
        parts[2] = ""
    return "/".join(part for part in parts if part)


def manifests(index: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    """The manifests that an index lists, attestations of docker's (platform ``unknown/unknown``) among them.

    Raises ValueError for what is no list of descriptors, or is longer than ``MOST_LISTED``.
    """
    listed = strict_json.sequence(index.get("manifests"), "list of manifests", most=MOST_LISTED)
    return tuple(descriptor(each) for each in listed)


def blobs(manifest: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    """The blobs of a manifest: its config, then its layers from the lowest. Raises ValueError when it is not a manifest."""
    layers = strict_json.sequence(manifest.get("layers"), "list of layers", most=MOST_LAYERS)
    return (descriptor(manifest.get("config")), *(descriptor(each) for each in layers))
