"""Whether a moving tag names what was promoted last, as the signed statement of channels says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from shipyard import channel_statements, channels
from shipyard.channel_statements import SEEN, Found
from shipyard.channels import Named
from shipyard.errors import ReleaseRefused
from shipyard.models import Project
from shipyard.published import Finding
from shipyard.registry import Registry
from shipyard.signing import Trust
from shipyard.versions import Version

#: Kinds of findings that ``--allow-older`` accepts.
ACCEPTED = ("older", "expired", "no-statement")
#: Those that say that a tag names something else than what was promoted.
TAGS = ("older", "not-promoted")


class Promoted:
    """The statement of one repository, read once and only when it is asked for."""

    def __init__(self, project: Project, registry: Registry, repository: str, ours: Trust) -> None:
        self._project, self._registry, self._repository, self._ours = project, registry, repository, ours
        self._found: Found | None = None
        self._reading = threading.Lock()

    @property
    def found(self) -> Found:
        """The statement, or why there is none."""
        with self._reading:
            if self._found is None:
                self._found = channel_statements.read(self._project, self._registry, self._repository, self._ours)
            return self._found

    def names(self, tag: str) -> Named | None:
        """What a valid statement says that a tag names; None where nothing says so."""
        found = self.found
        return found.channels.tags.get(tag) if found.channels and not found.led_back else None

    def findings(self, place: str, tag: str, digest: str, version: str) -> Iterator[Finding]:
        """What speaks against the image that a moving tag names: it is of ``version``, as its own label says."""
        found, there = self.found, self.found.channels
        if there is None:
            hint = f"`invoke promote --version {version or 'VERSION'}` writes it; --allow-older takes what is there"
            yield Finding("no-statement", place, f"nobody says that {tag} is current: {found.problem}", hint)
            return
        when = f"statement {there.counter} of {channels.moment(there.issued)}"
        if found.led_back:
            problem = f"the {when} is older than what was promoted: statement {found.seen} was seen before"
            hint = f"the registry shows an old one; was it set up anew, remove its line from .shipyard/{SEEN}"
            yield Finding("older", place, problem, hint)
        if there.expires < time.time():
            problem = (
                f"the {when} ended on {channels.moment(there.expires)}: {tag} may be older than what was promoted since"
            )
            yield Finding("expired", place, problem, f"`invoke promote --version {version or 'VERSION'}` renews it")
        named = there.tags.get(tag)
        if named is None:
            hint = "`invoke promote --version` lets one say so; --allow-older takes what is there"
            yield Finding(
                "no-statement", place, f"nobody says that {tag} is current: the {when} does not name it", hint
            )
        elif named.digest != digest:
            yield self._other(place, tag, f"{version or digest}", named, when)

    def _other(self, place: str, tag: str, version: str, named: Named, when: str) -> Finding:
        back = False
        with suppress(ReleaseRefused):
            back = Version(version) < Version(named.version)
        says = f"{tag} names {version}, and {named.version} ({named.digest[:19]}) was promoted ({when})"
        if back:
            hint = (
                f"the registry shows an old image, or a promotion broke off: `invoke promote --version {named.version}`"
            )
            return Finding("older", place, f"it is older than what was promoted: {says}", hint)
        hint = f"somebody moved the tag, or a promotion broke off: `invoke promote --version {named.version}`"
        return Finding("not-promoted", place, f"it is not what was promoted: {says}", hint)
