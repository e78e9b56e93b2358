"""Verifies what is published as a stranger would: from the registry, with the public key only. Every fault is named."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shipyard import console, oci, recorded, signing, signing_keys, tags, versions
from shipyard.artifacts import RELEASED, Artifact, Published
from shipyard.commands import cosign
from shipyard.commands.cosign import PREDICATES
from shipyard.errors import SigningFailed, UnknownName, VerificationFailed
from shipyard.image_checks import ALIAS, Check, Subject
from shipyard.models import Project
from shipyard.names import perhaps
from shipyard.published import Finding
from shipyard.registry import Registry

#: Images that are read at the same time.
_AT_ONCE = 4


@dataclass(frozen=True)
class Report:
    """What was verified, and everything wrong with it. ``cosign`` tells whether cosign itself looked at it too."""

    what: str
    images: tuple[Published, ...]
    findings: tuple[Finding, ...]
    cosign: bool
    seconds: float


def verify(project: Project, what: str, registry: str) -> Report:
    """Verify a version, a reference, or a digest of an index; ``registry`` is ``HOST[:PORT][/PREFIX]``.

    Raises UnknownName for what is none of these or is nowhere, SigningFailed without a public key, RegistryFailed and
    AccessDenied; what is wrong with the images is in the report.
    """
    if not what.strip():
        msg = "nothing is named; name a version, a reference or a digest"
        raise UnknownName(msg)
    subjects = list(_subjects(project, what, registry))
    for each in subjects:
        _whole(each)
    return _report(project, what, subjects)


def _whole(subject: Subject) -> None:
    """Raises UnknownName for one platform's manifest: what is released, tested and described is the index above it."""
    if oci.is_digest(subject.reference):
        found = Registry(subject.host).manifest(subject.repository, subject.reference)
        if found and oci.media_type(oci.parse(found[0])) not in oci.INDEXES:
            msg = f"{subject.place} is the manifest of one platform; name the index that it belongs to, or the version"
            raise UnknownName(msg)


def verify_artifacts(project: Project, artifacts: Iterable[Artifact]) -> Report:
    """Verify what a release has pushed and signed, by digest: no tag names it yet."""
    subjects = []
    for each in artifacts:
        found = oci.parse_reference(each.reference)
        image = project.images[each.name]
        subjects.append(
            Subject(found.registry, found.repository, each.digest, image, each.target, project.version, pushed=True)
        )
    return _report(project, project.version, subjects)


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
    demand(report)
    beside = "" if report.cosign else "; cosign is not here to look at it too"
    console.step(f"{report.what} is what it should be ({report.seconds:.1f} s{beside})")


def _subjects(project: Project, what: str, registry: str) -> Iterator[Subject]:
    host, _, prefix = registry.strip("/").partition("/")
    paths = {name: f"{prefix}/{image.repository}".lstrip("/") for name, image in project.images.items()}
    if oci.is_digest(what):
        client, found = Registry(host), False
        for name, path in paths.items():
            if client.head(path, what):
                found = True
                yield Subject(host, path, what, project.images[name])
        if not found:
            msg = f"{registry} has {what} in none of the repositories {', '.join(paths.values())}"
            raise UnknownName(msg)
    elif not versions.problem(what):
        for image in recorded.declared(project, what).values():
            path = f"{prefix}/{image.repository}".lstrip("/")
            for target in (each for each in RELEASED if each in image.targets):
                yield Subject(host, path, tags.tag(what, target), image, target, what)
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


def _report(project: Project, what: str, subjects: list[Subject]) -> Report:
    begun, ours = time.monotonic(), signing.trust(project)
    clients = {each.host: Registry(each.host) for each in subjects}
    for client in clients.values():
        client.ping()
    # An identity is checked by cosign: a process for each question, and those start from one thread alone.
    with ThreadPoolExecutor(_AT_ONCE if ours.key is not None else 1) as pool:
        checks = [Check(project, clients[each.host], ours, each) for each in subjects]
        images = list(pool.map(Check.run, checks))
    findings = [finding for check in checks for finding in check.findings]
    findings += _of_one_commit(what, images)
    second = signing_keys.present()
    if second:
        findings += _second_opinion(project, checks)
    published = tuple(each for each in images if each)
    return Report(what, published, tuple(findings), second, round(time.monotonic() - begun, 3))


def _of_one_commit(what: str, images: Iterable[Published | None]) -> Iterator[Finding]:
    """All images of a release are built in one request, of one commit."""
    commits: dict[str, list[str]] = {}
    for each in images:
        if each:
            commits.setdefault(each.commit, []).append(f"{each.name}-{each.target}")
    if not versions.problem(what) and len(commits) > 1:
        told = "; ".join(f"{', '.join(names)} of {commit[:12] or 'none'}" for commit, names in commits.items())
        yield Finding(
            "mixed-release", what, f"its images are of different commits: {told}", "two releases met; make another"
        )


def _second_opinion(project: Project, checks: Iterable[Check]) -> list[Finding]:
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
                try:
                    signing.authenticated(project, host, argv)
                except SigningFailed as failed:
                    return str(failed)
                return ""

            if ask(told):
                found += [
                    Finding("cosign-refuses", each.subject.place, problem, reference)
                    for reference, each in told.items()
                    if (problem := ask([reference]))
                ]
    return found
