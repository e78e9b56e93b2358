"""The checks of one published image; each adds what it finds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shipyard import attachments, evidence, freshness, oci, recorded, sbom, tags, versions
from shipyard.artifacts import Attachment, Published
from shipyard.attachments import Attached
from shipyard.commands.cosign import PREDICATES, SIGNATURE
from shipyard.dsse import Statement
from shipyard.freshness import Promoted
from shipyard.models import LABEL_PLATFORMS, LABEL_TARGET, Image, Project
from shipyard.published import Finding, Reader, Seen
from shipyard.registry import Registry
from shipyard.signing import Trust
from shipyard.tag_checks import Tags

_OCI = "org.opencontainers.image."
#: Labels that every platform of an image must agree on.
_COMMON = ("title", "source", "version", "revision")
#: The kind of finding that promoting a release mends.
ALIAS = "moved-alias"
#: Of a list that a stranger can make long, this many are shown.
_SHOWN = 5
#: Platforms that an image may declare.
_PLATFORMS = 64
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
#: What is attached to an index and to each platform, by the names that findings and releases use.
_TYPES = {"signature": SIGNATURE, **PREDICATES}
_ABSENT = {"signature": "unsigned", "cyclonedx": "no-sbom", "slsaprovenance1": "no-provenance"}
_WRONG = {"signature": "wrong-signature", "cyclonedx": "wrong-sbom", "slsaprovenance1": "wrong-provenance"}
_CALLED = {"signature": "signature", "cyclonedx": "SBOM", "slsaprovenance1": "provenance"}


@dataclass(frozen=True)
class Subject:
    """One image to be verified. ``reference`` is a tag or a digest; ``version`` is empty when unknown.

    ``pushed`` is for one that is to be promoted next: what moving tags name does not matter yet. ``deep`` reads layers.
    """

    host: str
    repository: str
    reference: str
    image: Image | None = None
    target: str = ""
    version: str = ""
    pushed: bool = False
    deep: bool = False

    @property
    def place(self) -> str:
        """How findings call it."""
        return f"{self.named}{'@' if oci.is_digest(self.reference) else ':'}{self.reference}"

    @property
    def named(self) -> str:
        """The repository with its registry."""
        return f"{self.host}/{self.repository}"


@dataclass
class _Heard:
    """What the statements of one kind about one digest came to: that one is good, or what is wrong with them."""

    good: bool = False
    foreign: int = 0
    about: set[str] = field(default_factory=set)
    problems: set[tuple[str, ...]] = field(default_factory=set)


class Check:
    """The checks of one image. ``findings`` and ``seen`` are filled by ``run``."""

    def __init__(self, project: Project, registry: Registry, ours: Trust, subject: Subject, promoted: Promoted) -> None:
        self.project, self.registry, self.ours, self.subject = project, registry, ours, subject
        self.promoted = promoted
        self.findings: list[Finding] = []
        self.seen = Seen("")

    def run(self) -> Published | None:
        """All of them; what is published, or nothing when it is not there."""
        subject = self.subject
        self.seen = seen = Reader(self.registry, subject.repository, subject.place, deep=subject.deep).read(
            subject.reference
        )
        self.findings += seen.findings
        if not seen.digest:
            return None
        self.subject = subject = replace(
            subject,
            version=subject.version or seen.label(f"{_OCI}version"),
            target=subject.target or seen.label(LABEL_TARGET) or "prod",
        )
        self._platforms(seen)
        self._labels(seen)
        self._tested(seen)
        self._fresh(seen)
        signatures, attestations = self._evidence(seen)
        return Published(
            subject.image.name if subject.image else subject.repository,
            subject.target,
            subject.named,
            seen.digest,
            self._tags(seen),
            seen.platforms,
            signatures,
            attestations,
            seen.label(f"{_OCI}revision"),
        )

    @property
    def key(self) -> str:
        """The image's name in journals: ``api-prod``."""
        return f"{self.subject.image.name if self.subject.image else self.subject.repository}-{self.subject.target}"

    def find(self, kind: str, problem: str, hint: str = "") -> None:
        """Note what is wrong."""
        self.findings.append(Finding(kind, self.subject.place, problem, hint))

    def _platforms(self, seen: Seen) -> None:
        image, found = self.subject.image, [each.platform for each in seen.platforms]
        declared = seen.label(LABEL_PLATFORMS).split(",")
        if len(declared) > _PLATFORMS:
            self.find("wrong-label", f"it declares {len(declared):,} platforms")
            declared = declared[:_PLATFORMS]
        if image and self.subject.version == self.project.version:
            declared = list(image.platforms_of(self.subject.target))
        for each in declared:
            if each and each not in found:
                self.find("missing-platform", f"there is no image for {each}", "it was declared when this was built")
        for each in found:
            if declared != [""] and each not in declared:
                self.find("extra-platform", f"there is an image for {each}, which was not declared")

    def _labels(self, seen: Seen) -> None:
        for name in _COMMON:
            every = {labels.get(_OCI + name, "") for labels in seen.labels.values()}
            if len(every) > 1:
                self.find("wrong-label", f"its platforms do not agree on {name}: {', '.join(sorted(map(repr, every)))}")
        subject, version = self.subject, seen.label(f"{_OCI}version")
        if (target := seen.label(LABEL_TARGET)) != subject.target:
            self.find("wrong-label", f"it is the target {target!r}, not {subject.target!r}")
        wanted = {"version": subject.version}
        if subject.image and subject.version == self.project.version:
            wanted |= {"title": subject.image.title, "source": self.project.source}
        for name, value in wanted.items():
            if (said := seen.label(_OCI + name)) != value:
                self.find("wrong-label", f"{name} is {said!r}, not {value!r}")
        if not _COMMIT.fullmatch(revision := seen.label(f"{_OCI}revision")):
            self.find("wrong-label", f"revision is {revision!r}, which is no commit")
        if not oci.is_digest(subject.reference) and not versions.problem(version):
            named = {tags.tag(version, subject.target), *versions.aliases(version, subject.target)}
            if subject.reference not in named:
                self.find("moved-tag", f"it names version {version} of {subject.target}")

    def _tested(self, seen: Seen) -> None:
        subject = self.subject
        if subject.image is None:
            return
        known = recorded.tested(self.project, subject.version, self.key, subject.named)
        if known and known != seen.digest:
            hint = "test these very bytes" if subject.pushed else "somebody moved the tag"
            self.find("untested", f"it is {seen.digest}, what this checkout tested and released is {known}", hint)

    def _fresh(self, seen: Seen) -> None:
        """A moving tag has to name what was promoted last; who names a version or a digest has chosen it."""
        subject, reference = self.subject, self.subject.reference
        if not oci.is_digest(reference) and reference != tags.tag(subject.version, subject.target):
            self.findings += self.promoted.findings(subject.place, reference, seen.digest, subject.version)

    def references(self, kind: str) -> list[str]:
        """What cosign is asked about: signatures (no kind) of index and platforms, or the attestations of one kind."""
        index, platforms = [self.seen.digest], [each.digest for each in self.seen.platforms]
        digests = {"": [*index, *platforms], "cyclonedx": platforms}.get(kind, index)
        return [f"{self.subject.named}@{each}" for each in dict.fromkeys(digests)]

    def _evidence(self, seen: Seen) -> tuple[tuple[Attachment, ...], tuple[Attachment, ...]]:
        """Signatures of index and platforms, and attestations: the provenance of the index, an SBOM of each platform."""
        wanted = [(seen.digest, "the index", "signature"), (seen.digest, "the index", "slsaprovenance1")]
        for each in seen.platforms:
            wanted += [(each.digest, each.platform, "signature"), (each.digest, each.platform, "cyclonedx")]
        kinds: dict[str, dict[str, str]] = {}
        for digest, part, kind in wanted:
            kinds.setdefault(digest, {})[kind] = part
        good = [
            Attachment(kind, digest, self.ours.name)
            for digest, parts in kinds.items()
            for kind in self._attached(digest, parts)
        ]
        return (
            tuple(each for each in good if each.kind == "signature"),
            tuple(each for each in good if each.kind != "signature"),
        )

    def _attached(self, digest: str, parts: Mapping[str, str]) -> list[str]:
        """Those kinds of which one statement is signed by whom we trust, about this digest, and says what it must.

        Each attachment is judged by itself, so that neither their order nor what else hangs there changes the verdict.
        ``parts`` is how findings call the digest, by the kinds that it must have.
        """
        heard = {kind: _Heard() for kind in parts}
        damaged = list[str]()
        try:
            for each in attachments.each(self.registry, self.subject.repository, digest):
                if each.statement is None:
                    damaged.append(f"{each.digest}: {each.problem}")
                for kind, found in heard.items():
                    if each.statement and each.statement.kind == _TYPES[kind] and not found.good:
                        self._judge(kind, digest, each, each.statement, found)
                if all(found.good for found in heard.values()):
                    break
        except attachments.TooMany as many:
            self.find("too-many-attachments", str(many))
            return [kind for kind, found in heard.items() if found.good]
        for kind, part in parts.items():
            self._tell(kind, digest, part, heard[kind], damaged)
        return [kind for kind, found in heard.items() if found.good]

    def _judge(self, kind: str, digest: str, attached: Attached, statement: Statement, found: _Heard) -> None:
        if not self.ours.accepts(f"{self.subject.named}@{digest}", attached):
            found.foreign += 1
        elif digest not in statement.about:
            found.about |= set(statement.about[:_SHOWN])
        else:
            problems = tuple(self._problems(kind, digest, statement))
            found.good = not problems
            found.problems.add(problems)

    def _tell(self, kind: str, digest: str, part: str, found: _Heard, damaged: list[str]) -> None:
        called = f"the {_CALLED[kind]} of {part}"
        if found.good:
            return
        if found.problems:
            # Of several the one that is nearest to what it should be, whichever was read first.
            for problem in min(found.problems, key=lambda each: (len(each), each)):
                self.find(_WRONG[kind], f"{called} {problem}")
        elif found.about:
            named = ", ".join(sorted(found.about)[:_SHOWN])
            self.find(_WRONG[kind], f"{called} is about {named}, not {digest}")
        elif found.foreign:
            problem = f"{called} is not signed by {self.ours.name}"
            self.find("foreign-signature", problem, "another key made it; whom does cosign.pub belong to?")
        else:
            more = [f"{len(damaged) - _SHOWN} more cannot be read"] if len(damaged) > _SHOWN else []
            told = "".join(f"; {each}" for each in (*sorted(damaged)[:_SHOWN], *more))
            self.find(_ABSENT[kind], f"{part} ({digest}) has no {_CALLED[kind]}{told}")

    def _problems(self, kind: str, digest: str, statement: Statement) -> list[str]:
        version, revision = self.subject.version, self.seen.label(f"{_OCI}revision")
        if kind == "cyclonedx":
            names = (version, tags.tag(version, self.subject.target))
            return list(evidence.sbom_problems(statement.predicate, sbom.serial(digest), names))
        if kind == "slsaprovenance1":
            return list(evidence.provenance_problems(statement.predicate, version, revision))
        return []

    def _tags(self, seen: Seen) -> tuple[str, ...]:
        """Every tag of this version that names the image; one that names what no release explains is a finding."""
        subject, version, target = self.subject, self.subject.version, self.subject.target
        if versions.problem(version):
            return ()
        asked = Tags(self.registry, subject.repository, target)
        own, found = tags.tag(version, target), list[str]()
        for each in (own, *versions.aliases(version, target)):
            named = asked.names(each)
            if named == seen.digest:
                found.append(each)
            elif named and each == own:
                self.find("moved-tag", f"the tag {each} names {named}, not {seen.digest}")
            elif named and not subject.pushed:
                known = recorded.promoted(self.project, self.key, subject.named, each)
                if problem := asked.misplaced(each, named, known):
                    hint = f"`invoke promote --version {known or version}` moves it back"
                    self.find(ALIAS, f"{each} names {named}, {problem}", hint)
            if named and each not in (own, subject.reference) and not subject.pushed:
                self._moved(each, named)
        return tuple(found)

    def _moved(self, alias: str, named: str) -> None:
        """Another moving tag than the one that was asked for, where the statement of channels says something else of it."""
        stated = self.promoted.names(alias)
        told = any(each.kind in (ALIAS, *freshness.TAGS) for each in self.findings)
        if stated and stated.digest != named and not told:
            hint = f"`invoke promote --version {stated.version}` moves it back"
            self.find(ALIAS, f"{alias} names {named}, and {stated.version} was promoted ({stated.digest[:19]})", hint)
