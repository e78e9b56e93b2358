"""Semantic versions: their order, the next one, and which tags a version takes. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import total_ordering

from shipyard import tags
from shipyard.errors import ReleaseRefused, UnknownName
from shipyard.names import perhaps

#: Semantic Versioning 2.0.0, https://semver.org, without build metadata: no image tag can hold its ``+``.
_GRAMMAR = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?",
    re.ASCII,
)
#: Characters of a text that is looked at: it may be a stranger's.
_MOST = 1000
_PARTS = ("major", "minor", "patch")
#: Targets whose tags end in their name; a pre-release that ends so would have the tag of another image.
_SUFFIXES = ("dev", "debug", "local", "cuda")
#: OCI distribution specification 1.1, "Pulling manifests": a tag has at most 128 characters.
_LONGEST = 128 - max(len(f"-{each}") for each in _SUFFIXES)


@total_ordering
class Version:
    """One version; compares as section 11 of Semantic Versioning says: a pre-release comes before its release."""

    def __init__(self, text: str) -> None:
        match = _GRAMMAR.fullmatch(text) if len(text) <= _MOST else None
        if not match:
            msg = (
                f'"{text[:40]}" is not a semantic version without build metadata; write for example 1.2.3 or 1.3.0-rc.1'
            )
            raise ReleaseRefused(msg)
        self.text, self.pre = text, match[4] or ""
        self.numbers = (int(match[1]), int(match[2]), int(match[3]))
        identifiers = tuple((0, int(each), "") if each.isdigit() else (1, 0, each) for each in self.pre.split("."))
        self._order = (self.numbers, not self.pre, identifiers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._order == other._order

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __str__(self) -> str:
        return self.text


def problem(text: str) -> str:
    """Why a version cannot be released; empty when it can."""
    try:
        found = Version(text)
    except ReleaseRefused as refused:
        return str(refused)
    if suffix := _suffix(text):
        return f"{text} would take the tag of the target {suffix} of {text.removesuffix('-' + suffix)}; write {text}.1"
    return f"{found} is longer than {_LONGEST} characters, too long for a tag" if len(text) > _LONGEST else ""


def bump(current: str, wanted: str) -> str:
    """The version that ``major``, ``minor``, ``patch`` or an explicit one makes of ``current``.

    A pre-release is completed first: ``minor`` makes 1.3.0 of 1.3.0-rc.1. Raises ReleaseRefused for a downgrade or a
    version that cannot be released, UnknownName for any other word.
    """
    before = Version(current)
    if wanted in _PARTS:
        return _next(before, _PARTS.index(wanted))
    if not wanted[:1].isdigit():
        msg = f'bump "{wanted}" is neither a version such as 1.2.3 nor a part of one; {perhaps(wanted, _PARTS)}'
        raise UnknownName(msg)
    if reason := problem(wanted):
        raise ReleaseRefused(reason)
    if Version(wanted) < before:
        msg = f"{wanted} is older than VERSION, which is {current}; a release never goes back: choose a newer version"
        raise ReleaseRefused(msg)
    return wanted


def _next(before: Version, part: int) -> str:
    numbers = before.numbers
    if before.pre and not any(numbers[part + 1 :]):
        return ".".join(map(str, numbers))
    raised = (*numbers[:part], numbers[part] + 1, *(0 for _ in numbers[part + 1 :]))
    return ".".join(map(str, raised))


def of(existing: Iterable[str], target: str) -> list[Version]:
    """The versions among a repository's tags that are of this target, oldest first."""
    found = []
    for tag in existing:
        suffix = _suffix(tag)
        text = tag if target == "prod" and not suffix else tag.removesuffix(f"-{target}") if suffix == target else ""
        if _GRAMMAR.fullmatch(text):
            found.append(Version(text))
    return sorted(found)


def aliases(version: str, target: str) -> list[str]:
    """Every tag that may move to a version: X.Y, X and latest, as the target writes them; none for a pre-release."""
    found = Version(version)
    if found.pre:
        return []
    major, minor, _ = found.numbers
    return [tags.tag(each, target) for each in (f"{major}.{minor}", f"{major}", "latest")]


def moving(version: str, target: str, existing: Iterable[str]) -> list[str]:
    """The tags that a release takes: its own, then X.Y, X and latest as far as it is the newest release of each.

    ``existing`` are the tags that the repository has; those of other targets and of pre-releases do not count.
    """
    found = Version(version)
    others = [each for each in of(existing, target) if not each.pre]
    named = zip(aliases(version, target), (2, 1, 0), strict=False)
    newest = [
        alias
        for alias, same in named
        if all(found >= each for each in others if each.numbers[:same] == found.numbers[:same])
    ]
    return [tags.tag(version, target), *newest]


def _suffix(tag: str) -> str:
    return next((each for each in _SUFFIXES if tag.endswith(f"-{each}")), "")
