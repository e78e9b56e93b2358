"""Verifies what is published as a stranger would: from the registry, with the public key only. Every fault is named."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from shipyard import channels, console, freshness, oci, recorded, signing, signing_keys, tags, versions
from shipyard.artifacts import RELEASED, Artifact, Published
from shipyard.commands import cosign
from shipyard.commands.cosign import PREDICATES
from shipyard.deadline import Deadline
from shipyard.errors import RegistryFailed, SigningFailed, UnknownName, VerificationFailed
from shipyard.freshness import Promoted
from shipyard.image_checks import ALIAS, Check, Subject
from shipyard.models import Project
from shipyard.names import perhaps
from shipyard.published import Finding
from shipyard.registry import Registry

#: Images that are read at the same time.
_AT_ONCE = 4
#: Seconds for a whole verification: one of 14 images takes about five. With layers, a minute for each GB of a release.
TIMEOUT, DEEP = 60.0, 900.0


@dataclass(frozen=True)
class Report:
    """What was verified, and everything wrong with it. ``cosign`` tells whether cosign itself looked at it too."""

    what: str
    images: tuple[Published, ...]
    findings: tuple[Finding, ...]
    cosign: bool
    seconds: float
    #: What was wrong and accepted (``--allow-older``).
    accepted: tuple[Finding, ...] = ()
    #: Whether the layers' bytes were read too.
    layers: bool = False


@dataclass(frozen=True)
class Options:
    """How ``verify`` looks. ``timeout`` is in seconds; 0 means TIMEOUT, or DEEP with ``deep``, which reads every layer.

    ``allow_older`` takes a moving tag that names something older than what was promoted, or of which nobody knows;
    ``more`` says what to do when the time was too short.
    """

    deep: bool = False
    timeout: float = 0.0
    allow_older: bool = False
    more: str = "--timeout SECONDS gives it more"


#: The verification inside a release or a promotion runs beside whatever else the machine does, and must not fail for that.
RELEASE = Options(timeout=600.0, more="is the registry that slow? The same command goes on from here")


def verify(project: Project, what: str, registry: str, options: Options = Options()) -> Report:
    """Verify a version, a moving tag, a reference, or a digest of an index; ``registry`` is ``HOST[:PORT][/PREFIX]``.

    Raises UnknownName for what is none of these or is nowhere, SigningFailed without a public key, RegistryFailed (TooLate
    when ``options.timeout`` is over) and AccessDenied; what is wrong with the images is in the report.
    """
    if not what.strip():
        msg = "nothing is named; name a version, a reference or a digest"
        raise UnknownName(msg)
    work = _Work(project, what, options)
    return work.held(lambda: work.read(_subjects(work, registry)))


def verify_artifacts(project: Project, artifacts: Iterable[Artifact]) -> Report:
    """Verify what a release has pushed and signed, by digest: no tag names it yet."""
    subjects = []
    for each in artifacts:
        found = oci.parse_reference(each.reference)
        image = project.images[each.name]
        subjects.append(
            Subject(found.registry, found.repository, each.digest, image, each.target, project.version, pushed=True)
        )
    work = _Work(project, project.version, RELEASE)
    return work.held(lambda: work.read(subjects))


def demand(report: Report, *, aliases: bool = True) -> None:
    """Raises VerificationFailed with every finding, if there are any; those that a promotion mends only with ``aliases``."""
    if found := [each for each in report.findings if aliases or each.kind != ALIAS]:
        raise VerificationFailed("\n".join(map(str, found)))


def show(report: Report, *, json: bool) -> None:
    """Print it: one JSON document, or a table. Raises VerificationFailed with every finding, if there are any."""
    if json:
        console.document(report)
    else:
        header = ("image", "digest", "platforms", "signatures", "attestations", "tags")
        rows = [
            (
                f"{each.name}-{each.target}",
                each.digest,
                " ".join(platform.platform for platform in each.platforms),
                str(len(each.signatures)),
                str(len(each.attestations)),
                " ".join(each.tags),
            )
            for each in report.images
        ]
        console.table(header, rows)
    for each in report.accepted:
        console.warn(str(each))
    demand(report)
    beside = "" if report.cosign else "; cosign is not here to look at it too"
    console.step(f"{report.what} is what it should be ({report.seconds:.1f} s{beside})")
    if not report.layers:
        console.info("layers were looked for and not read; --deep reads them")


class _Work:
    """One verification: its end, its clients, and what it looks at."""

    def __init__(self, project: Project, what: str, options: Options) -> None:
        self.project, self.what, self.options, self.begun = project, what, options, time.monotonic()
        self.seconds = options.timeout or (DEEP if options.deep else TIMEOUT)
        self.deadline = Deadline(self.seconds, f"the verification of {what}", options.more)
        self.ours = signing.trust(project)
        self._clients: dict[str, Registry] = {}

    def client(self, host: str) -> Registry:
        """The one client of a registry."""
        if host not in self._clients:
            self._clients[host] = Registry(host, deadline=self.deadline)
        return self._clients[host]

    def stop(self) -> None:
        """End what other threads read."""
        for each in list(self._clients.values()):
            each.stop()

    def held(self, read: Callable[[], tuple[list[Check], list[Published | None]]]) -> Report:
        """Read everything, in time; then what cosign says, and the report."""
        checks, images = self.deadline.hold(read, self.stop)
        findings = [finding for check in checks for finding in check.findings]
        findings += _of_one_commit(self.what, images)
        accepted = tuple(each for each in findings if self.options.allow_older and each.kind in freshness.ACCEPTED)
        findings = [each for each in findings if each not in accepted]
        second = signing_keys.present()
        if second:
            findings += _second_opinion(self.project, checks, self.deadline)
        published, seconds = tuple(each for each in images if each), round(time.monotonic() - self.begun, 3)
        return Report(self.what, published, tuple(findings), second, seconds, accepted, self.options.deep)

    def read(self, found: Iterable[Subject]) -> tuple[list[Check], list[Published | None]]:
        """Look at every image, several at a time."""
        subjects = [replace(each, deep=self.options.deep) for each in found]
        for each in subjects:
            self._whole(each)
        for host in dict.fromkeys(each.host for each in subjects):
            self.client(host).ping()
        promoted = {
            (each.host, each.repository): Promoted(self.project, self.client(each.host), each.repository, self.ours)
            for each in subjects
        }
        checks = [
            Check(self.project, self.client(each.host), self.ours, each, promoted[each.host, each.repository])
            for each in subjects
        ]
        # An identity is checked by cosign: a process for each question, and those start from one thread alone.
        if self.ours.key is None:
            return checks, [each.run() for each in checks]
        return checks, _at_once(checks, self.deadline)

    def _whole(self, subject: Subject) -> None:
        """Raises UnknownName for one platform's manifest: what is released, tested and described is the index above it."""
        if oci.is_digest(subject.reference):
            found = self.client(subject.host).manifest(subject.repository, subject.reference)
            with suppress(ValueError):  # what is wrong with it becomes a finding
                if found and oci.media_type(oci.parse(found[0])) not in oci.INDEXES:
                    msg = f"{subject.place} is the manifest of one platform; name the index that it belongs to, or the version"
                    raise UnknownName(msg)


def _at_once(checks: list[Check], deadline: Deadline) -> list[Published | None]:
    """Run them in threads that do not keep the process from ending: whoever waits too long for them leaves them behind."""
    found, left = dict[int, Published | None](), deque(enumerate(checks))
    failed = list[BaseException]()

    def run() -> None:
        while not failed:
            try:
                number, check = left.popleft()
                found[number] = check.run()
            except IndexError:
                return
            except BaseException as problem:
                failed.append(problem)

    threads = [threading.Thread(target=run, name="verify", daemon=True) for _ in checks[:_AT_ONCE]]
    for each in threads:
        each.start()
    for each in threads:
        each.join(deadline.left)
    if failed:
        raise failed[0]
    deadline.check()
    return [found[number] for number in range(len(checks))]


def _subjects(work: _Work, registry: str) -> Iterator[Subject]:
    project, what = work.project, work.what
    host, _, prefix = registry.strip("/").partition("/")
    paths = {name: f"{prefix}/{image.repository}".lstrip("/") for name, image in project.images.items()}
    if oci.is_digest(what):
        client, found = work.client(host), False
        for name, path in paths.items():
            if client.head(path, what):
                found = True
                yield Subject(host, path, what, project.images[name])
        if not found:
            msg = f"{registry} has {what} in none of the repositories {', '.join(paths.values())}"
            raise UnknownName(msg)
    elif channels.is_channel(what) or not versions.problem(what):
        version = "" if channels.is_channel(what) else what
        for image in (recorded.declared(project, what) if version else project.images).values():
            path = f"{prefix}/{image.repository}".lstrip("/")
            for target in (each for each in RELEASED if each in image.targets):
                yield Subject(host, path, tags.tag(what, target), image, target, version)
    else:
        yield _referred(project, what, host, paths)


def _referred(project: Project, what: str, host: str, paths: dict[str, str]) -> Subject:
    found = oci.parse_reference(what)
    full = found.repository
    if not found.registry:
        known = {image.repository: paths[name] for name, image in project.images.items()} | {
            path: path for path in paths.values()
        }
        if full not in known:
            msg = f'"{what}" is no version, no digest and no image of docker/images.toml; {perhaps(full, known)}'
            raise UnknownName(msg)
        full = known[full]
    image = next((each for each in project.images.values() if full.endswith(each.repository)), None)
    return Subject(found.registry or host, full, found.digest or found.tag or "latest", image)


def _of_one_commit(what: str, images: Iterable[Published | None]) -> Iterator[Finding]:
    """All images of a release are built in one request, of one commit."""
    commits: dict[str, list[str]] = {}
    for each in images:
        if each:
            commits.setdefault(each.commit, []).append(f"{each.name}-{each.target}")
    if (channels.is_channel(what) or not versions.problem(what)) and len(commits) > 1:
        told = "; ".join(f"{', '.join(names)} of {commit[:12] or 'none'}" for commit, names in commits.items())
        yield Finding(
            "mixed-release", what, f"its images are of different commits: {told}", "two releases met; make another"
        )


def _second_opinion(project: Project, checks: Iterable[Check], deadline: Deadline) -> list[Finding]:
    """What cosign says of the images in which we found nothing wrong: all at once, and one by one where it refuses."""
    good = [each for each in checks if each.seen.digest and not each.findings]
    trusted, program, found = signing_keys.trusted(project), signing_keys.program(), list[Finding]()
    for host in sorted({each.subject.host for each in good}):
        here = [each for each in good if each.subject.host == host]
        for kind in (*PREDICATES, ""):
            told = {reference: each for each in here for reference in each.references(kind)}

            def ask(references: Iterable[str], kind: str = kind, host: str = host) -> str:
                argv = (
                    cosign.verify_attestation(program, trusted, kind, references)
                    if kind
                    else cosign.verify(program, trusted, references)
                )
                deadline.check()
                try:
                    signing.authenticated(project, host, [*argv, *cosign.SILENT], seconds=deadline.left)
                except SigningFailed as failed:
                    return str(failed)
                except RegistryFailed as failed:
                    raise deadline.late(str(failed)) if not deadline.left else failed from None
                return ""

            if ask(told):
                found += [
                    Finding("cosign-refuses", each.subject.place, problem, reference)
                    for reference, each in told.items()
                    if (problem := ask([reference]))
                ]
    return found
