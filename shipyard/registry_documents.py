"""What a registry and its token service say, as checked values: lists, configs, errors, tokens and headers.

Pure functions. Indexes and manifests are read by ``oci``, bundles by ``dsse``; all of them by way of ``strict_json``.
Whatever is given, the only exception is ValueError.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from shipyard import oci, strict_json
from shipyard.oci import Descriptor

#: Characters of a header that is used; distribution's own are far below 1,000.
LONGEST_HEADER = 8192
#: Headers that are used. All others are dropped where an answer is read.
HEADERS = (
    *("content-length", "content-type", "date", "docker-content-digest", "link", "location"),
    *("retry-after", "www-authenticate"),
)
#: Tags on one page of a list; docker-registry gives at most 1,000.
_TAGS = 50_000
#: Labels of an image, lines of its history, and characters of one of either.
_LABELS, _HISTORY, _VALUE = 1000, 1000, 65536
#: Errors of one answer that are shown.
_ERRORS = 5
#: A Bearer token's characters (RFC 6750, 2.1), and how many: what fits into a header of usual servers.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/:-]{1,16384}=*")
_NEXT = re.compile(r'<([^<>]{1,4096})>\s{0,8};\s{0,8}rel="?next')
_WEB = ("http", "https")


@dataclass(frozen=True)
class Config:
    """A config, as far as it is used. ``history`` are the lines of those entries that made a layer."""

    platform: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    history: tuple[str, ...] = ()


def config(raw: bytes) -> Config:
    """An image's config."""
    document = oci.parse(raw)
    inner = strict_json.mapping(document.get("config"), "config")
    labels = strict_json.mapping(inner.get("Labels"), "Labels")
    if len(labels) > _LABELS:
        _refuse(f"it has {len(labels):,} labels; at most {_LABELS:,} are read")
    history = strict_json.sequence(document.get("history"), "history", most=_HISTORY)
    lines = [strict_json.mapping(each, "line of the history") for each in history]
    return Config(
        oci.platform(document),
        {name: strict_json.optional_text(said, f"label {name[:80]!r}", most=_VALUE) for name, said in labels.items()},
        tuple(
            strict_json.optional_text(each.get("created_by"), "created_by", most=_VALUE)
            for each in lines
            if each.get("empty_layer") is not True
        ),
    )


def tags(raw: bytes) -> tuple[str, ...]:
    """One page of a repository's tags."""
    listed = strict_json.sequence(oci.parse(raw).get("tags"), "list of tags", most=_TAGS)
    found = tuple(strict_json.text(each, "tag", most=128) for each in listed)
    if wrong := [each for each in found if not oci.is_tag(each)]:
        _refuse(f"it has the tag {wrong[0]!r}, which is none")
    return found


def referrers(raw: bytes) -> tuple[Descriptor, ...]:
    """One page of what is attached to a digest."""
    return oci.manifests(oci.parse(raw))


def token(raw: bytes) -> str:
    """The token that a token service gave, fit for a header."""
    document = strict_json.table(raw, count=1000)
    given = document.get("token") or document.get("access_token")
    found = strict_json.text(given, "token", most=20_000)
    if not _TOKEN.fullmatch(found):
        _refuse("its token has characters that no token has")
    return found


def refusal(raw: bytes) -> str:
    """What an answer says is wrong (distribution specification, "Error Codes"); its first characters where it is none."""
    try:
        listed = strict_json.table(raw, count=1000).get("errors")
        errors = strict_json.sequence(listed, "list of errors", most=1000)[:_ERRORS]
        if said := ", ".join(filter(None, map(_error, errors))):
            return said
    except ValueError:
        pass
    return raw[:200].decode(errors="replace").strip()


def _error(value: Any) -> str:
    found = strict_json.mapping(value, "error")
    words = [strict_json.optional_text(found.get(name), name, most=20_000)[:500] for name in ("code", "message")]
    return " ".join(filter(None, (*words, _system_error(found.get("detail")))))


def _system_error(detail: Any) -> str:
    """The words for the error number of its file system that docker-registry gives as detail of "unknown error"."""
    enclosed = detail.get("Enclosed") if isinstance(detail, dict) else None
    number = enclosed.get("Err") if isinstance(enclosed, dict) else None
    return f"({os.strerror(number)})" if isinstance(number, int) and number in errno.errorcode else ""


def headers(given: Mapping[str, str]) -> dict[str, str]:
    """Those that are used, by their names in lower case."""
    found = {name.lower(): value for name, value in given.items()}
    kept = {name: found[name] for name in HEADERS if name in found}
    if long := next((name for name, value in kept.items() if len(value) > LONGEST_HEADER), ""):
        _refuse(f"its header {long} has {len(kept[long]):,} characters")
    return kept


def following(link: str) -> str:
    """The next page that a Link header names; empty where it names none."""
    found = _NEXT.search(link[:LONGEST_HEADER])
    return found[1] if found else ""


def target(base: str, location: str) -> str:
    """Where a Location or a Link leads, seen from ``base``: a URL of http or https."""
    found = urljoin(base, location)
    parts = urlsplit(found)
    if parts.scheme not in _WEB or not parts.hostname:
        _refuse(f"it sends us to {found[:200]!r}, which is no address of a web server")
    if parts.username is not None or parts.port == 0 or not found.isascii() or not found.isprintable() or " " in found:
        _refuse(f"it sends us to {found[:200]!r}, which is no address that is safe to follow")
    return found


def _refuse(reason: str) -> NoReturn:
    raise strict_json.Malformed(reason)
