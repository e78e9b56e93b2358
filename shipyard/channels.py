"""The statement of channels: which image each moving tag of a repository names, since when, and until when that holds.

The Update Framework's snapshot and timestamp in one small document (theupdateframework.io, "timestamp": a counter that only
grows, and an expiry), which is the predicate of a signed in-toto statement. Pure functions.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipyard import oci, strict_json, versions
from shipyard.errors import ReleaseRefused

#: The predicate's type.
TYPE = "https://github.com/llm-call/shipyard/docs/release.md#channels-v1"
#: The tag under which a repository keeps its statement.
TAG = "channels"
#: Days for which a statement holds, and the variable that says otherwise. The key is a person's, so nothing renews a
#: statement by itself: a quarter is longer than the time between releases, and short enough to notice a frozen registry.
DAYS, VARIABLE = 90, "SHIPYARD_CHANNELS_DAYS"
#: The part of its time in which a promotion renews a statement.
_LAST = 1 / 3
#: Moving tags of a repository that a statement may name.
_MOST = 1000
_CHANNEL = re.compile(r"latest|(?:0|[1-9]\d{0,8})(?:\.(?:0|[1-9]\d{0,8}))?", re.ASCII)


@dataclass(frozen=True)
class Named:
    """What a moving tag names: a digest, and the version that it belongs to."""

    digest: str
    version: str


@dataclass(frozen=True)
class Channels:
    """A statement. ``repository`` is the last part of its name, ``counter`` grows by each statement, times are in seconds."""

    repository: str
    counter: int
    issued: int
    expires: int
    tags: Mapping[str, Named]

    def covers(self, wanted: Mapping[str, Named]) -> bool:
        """Whether it says this already."""
        return all(self.tags.get(tag) == named for tag, named in wanted.items())

    def ends_soon(self, now: float) -> bool:
        """Whether the next promotion renews it."""
        return self.expires - now < (self.expires - self.issued) * _LAST


def is_channel(text: str) -> bool:
    """Whether it is a moving tag without a target: ``latest``, ``X`` or ``X.Y``."""
    return _CHANNEL.fullmatch(text) is not None


def days() -> int:
    """For how long a new statement holds. Raises ReleaseRefused when the variable is no number of days."""
    given = os.environ.get(VARIABLE) or str(DAYS)
    if not re.fullmatch(r"[1-9]\d{0,3}", given, re.ASCII):
        msg = f"{VARIABLE}={given} is no number of days from 1 to 9999"
        raise ReleaseRefused(msg)
    return int(given)


def after(
    before: Channels | None, wanted: Mapping[str, Named], repository: str, known: int, now: float, length: int
) -> Channels:
    """The next statement: what the one ``before`` it says, and what is ``wanted``.

    ``known`` is the highest counter that was ever seen. One that is lower was led back, so what it says is not repeated.
    """
    kept = before.tags if before and before.counter >= known else {}
    counter = max(before.counter if before else 0, known) + 1
    return Channels(repository, counter, int(now), int(now) + length * 86400, {**kept, **wanted})


def document(channels: Channels) -> str:
    """The predicate."""
    tags = {tag: {"digest": each.digest, "version": each.version} for tag, each in sorted(channels.tags.items())}
    found = {"repository": channels.repository, "counter": channels.counter, "tags": tags}
    return json.dumps({**found, "issued": moment(channels.issued), "expires": moment(channels.expires)}, indent=2)


def read(predicate: Mapping[str, Any]) -> Channels:
    """A statement of its predicate. Raises ValueError."""
    tags = strict_json.mapping(predicate.get("tags"), "tags")
    if len(tags) > _MOST:
        msg = f"it names {len(tags):,} tags"
        raise strict_json.Malformed(msg)
    return Channels(
        strict_json.text(predicate.get("repository"), "repository", most=255),
        strict_json.size(predicate.get("counter"), "counter"),
        _seconds(predicate.get("issued"), "issued"),
        _seconds(predicate.get("expires"), "expires"),
        {tag: _named(value) for tag, value in tags.items()},
    )


def _named(value: Any) -> Named:
    found = strict_json.mapping(value, "tag")
    digest, version = (strict_json.text(found.get(name), name, most=255) for name in ("digest", "version"))
    if not oci.is_digest(digest) or versions.problem(version):
        msg = "a tag of it names no digest and no version"
        raise strict_json.Malformed(msg)
    return Named(digest, version)


def _seconds(value: Any, name: str) -> int:
    try:
        return int(datetime.fromisoformat(strict_json.text(value, name, most=40)).timestamp())
    except (ValueError, OverflowError):
        msg = f"its {name} is no time"
        raise strict_json.Malformed(msg) from None


def moment(seconds: float) -> str:
    """A time as people and programs read it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
