"""Signing what lies in a registry, and attesting what is known of it. The registry is asked first: nothing is signed twice."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shipyard import attachments, console, credentials, dsse, oci, signing_keys
from shipyard.artifacts import Artifact
from shipyard.attachments import Attached
from shipyard.commands import cosign
from shipyard.commands.cosign import PREDICATES, SIGNATURE, Identity
from shipyard.dsse import Statement
from shipyard.errors import AccessDenied, CommandFailed, RegistryFailed, SigningFailed
from shipyard.models import Project
from shipyard.registry import Registry

#: Seconds to wait before each further attempt when the registry breaks off: 31 in all.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
#: What cosign's errors say of a registry that wants another login or takes no writes, and of one that broke off.
#: Of other answers it tells the registry's words and no status, so that whatever names a URL of it may pass.
_DENIED = ("UNAUTHORIZED", "DENIED", "UNSUPPORTED", *(f"status code {code}" for code in (401, 403, 405)))
_BROKEN = ("connection re", "broken pipe", "EOF", "imeout", "no such host", "no answer within")
#: What cosign's errors say of what is not the registry's: the key, the predicate's file, the command, who vouches for an identity.
_OURS = (
    *("getting signer", "getting keypair", "reading key", "getting predicate", "parsing reference", "unknown flag"),
    *("no such file", "permission denied", "fulcio", "rekor", "timestamp", "identity token", "trusted root"),
)
#: What a folder with a registry's login is called while cosign runs; the process that made it follows.
_LOGIN = "login-"


@dataclass(frozen=True)
class Trust:
    """Whose statements count: the owner of a key, whose ``name`` is its fingerprint, or an identity, known to cosign alone."""

    name: str
    key: Any = None
    #: Asks cosign whether a statement about a reference is the identity's.
    vouched: Callable[[str, Statement], bool] = lambda _reference, _statement: False
    #: The same for the bytes of a bundle that is attached to nothing.
    vouched_alone: Callable[[bytes, Statement], bool] = lambda _bundle, _statement: False

    def accepts(self, reference: str, attached: Attached) -> bool:
        """Whether what is attached to a reference was signed by whom we trust."""
        statement = attached.statement
        if statement is None:
            return False
        if self.key is not None:
            return statement.signed_by(self.key)
        return self.vouched(reference, statement)

    def accepts_alone(self, bundle: bytes, statement: Statement) -> bool:
        """Whether a bundle that is attached to nothing was signed by whom we trust."""
        return statement.signed_by(self.key) if self.key is not None else self.vouched_alone(bundle, statement)


def trust(project: Project) -> Trust:
    """Whom this checkout trusts. Raises SigningFailed when its public key is missing or damaged."""
    whose = signing_keys.trusted(project)
    if isinstance(whose, Identity):
        return Trust(whose.subject, None, partial(_vouched, project, whose), partial(_vouched_alone, project, whose))
    key = dsse.public_key(signing_keys.public_bytes(whose), str(whose))
    return Trust(dsse.fingerprint(key), key)


def signed(project: Project, registry: Registry, artifact: Artifact) -> bool:
    """Whether the index and each platform's image carry a signature that counts."""
    return not _unsigned(trust(project), registry, artifact)


def sign(project: Project, registry: Registry, artifact: Artifact) -> tuple[str, ...]:
    """Sign the index and each platform's image, as far as they are not yet; returns the digests that were signed now.

    Raises SigningFailed (no key, wrong password), AccessDenied, and RegistryFailed when the registry stays away.
    """
    ours, before = trust(project), list[str]()

    def once() -> list[str] | None:
        missing = _unsigned(ours, registry, artifact)
        before[:] = before or missing
        key = signing_keys.private(project)
        references = [f"{artifact.repository}@{digest}" for digest in missing]
        return cosign.sign(signing_keys.program(), key, references) if missing else None

    _until_done(project, registry, once, artifact.key)
    return tuple(before)


def attested(project: Project, registry: Registry, artifact: Artifact, kind: str, digest: str = "") -> bool:
    """Whether an attestation that counts (``kind`` of ``PREDICATES``) is attached to the index, or to a platform's digest."""
    return _attested(trust(project), registry, artifact, kind, digest or artifact.digest)


def attest(
    project: Project, registry: Registry, artifact: Artifact, kind: str, predicate: Path, digest: str = ""
) -> bool:
    """Attach a predicate's file to the index, or to a platform's digest; returns whether that was needed. Raises as ``sign``."""
    ours, subject = trust(project), digest or artifact.digest
    needed = False

    def once() -> list[str] | None:
        nonlocal needed
        if _attested(ours, registry, artifact, kind, subject):
            return None
        needed = True
        key, reference = signing_keys.private(project), f"{artifact.repository}@{subject}"
        return cosign.attest(signing_keys.program(), key, kind, predicate, reference)

    _until_done(project, registry, once, f"{artifact.key}, {kind}")
    return needed


def state(project: Project, kind: str, predicate: Path, bundle: Path) -> None:
    """Sign a statement of a kind (a URI) that is about its own predicate and is attached to nothing; write its bundle.

    Raises SigningFailed. Signed with a key, no request leaves the machine.
    """
    key = signing_keys.private(project)
    digest = oci.digest(predicate.read_bytes()).removeprefix("sha256:")
    argv = cosign.attest_blob(signing_keys.program(), key, kind, predicate, digest, bundle)
    try:
        signing_keys.call(project, argv, key=key, password=signing_keys.password(project) if key else None)
    except CommandFailed as failed:
        reason = cosign.reason(failed.stderr)
        if "decryption failed" in reason:
            reason = f"the signing key: its password is wrong; set {signing_keys.PASSWORD}"
        msg = f"cosign attest-blob: {reason}"
        raise SigningFailed(msg) from None


def subjects(artifact: Artifact) -> tuple[str, ...]:
    """What is signed: the index, and each platform's manifest, which somebody may pull by its digest."""
    return tuple(dict.fromkeys((artifact.digest, *(part.digest for part in artifact.parts))))


def _unsigned(ours: Trust, registry: Registry, artifact: Artifact) -> list[str]:
    return [each for each in subjects(artifact) if not _stated(ours, registry, artifact, SIGNATURE, each)]


def _attested(ours: Trust, registry: Registry, artifact: Artifact, kind: str, digest: str) -> bool:
    return _stated(ours, registry, artifact, PREDICATES[kind], digest)


def _stated(ours: Trust, registry: Registry, artifact: Artifact, kind: str, digest: str) -> bool:
    repository = oci.parse_reference(artifact.reference).repository
    return any(
        each.statement is not None
        and (each.statement.kind, digest in each.statement.about) == (kind, True)
        and ours.accepts(f"{artifact.repository}@{digest}", each)
        for each in attachments.each(registry, repository, digest)
    )


def _until_done(project: Project, registry: Registry, once: Callable[[], list[str] | None], what: str) -> None:
    """Run what ``once`` says is still to be done, again while the registry breaks off, until there is nothing left."""
    for pause in (*PAUSES, None):
        if (argv := once()) is None:
            return
        try:
            authenticated(project, registry.host, argv, sign=True)
        except RegistryFailed as failed:
            if pause is None:
                raise
            console.info(f"{failed}; once more in {pause:g} s")
            time.sleep(pause)
    if once() is not None:
        msg = f"{registry.host} took the signatures of {what}, and does not show them; look into its log"
        raise RegistryFailed(msg)


def authenticated(
    project: Project, host: str, argv: list[str], *, sign: bool = False, seconds: float = signing_keys.LONGEST
) -> str:
    """Run cosign with this registry's login alone, for so many seconds; what it printed. Its errors become ours."""
    key = signing_keys.private(project) if sign else ""
    password = signing_keys.password(project) if key else "" if not sign else None
    home = signing_keys.folder(project)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _forget(home)
    with tempfile.TemporaryDirectory(prefix=f"{_LOGIN}{os.getpid()}-", dir=home) as folder:
        credentials.docker_config(Path(folder), host)
        try:
            done = signing_keys.call(
                project, argv, key=key, password=password, docker_config=Path(folder), seconds=seconds
            )
            return done.stdout
        except CommandFailed as failed:
            raise _explained(host, cosign.reason(failed.stderr), argv[1]) from None


def _forget(home: Path) -> None:
    """Remove the logins of processes that were killed before they could."""
    for folder in home.glob(f"{_LOGIN}*"):
        pid = folder.name.removeprefix(_LOGIN).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _explained(host: str, reason: str, verb: str) -> AccessDenied | RegistryFailed | SigningFailed:
    if "decryption failed" in reason:
        return SigningFailed(f"the signing key: its password is wrong; set {signing_keys.PASSWORD}")
    if any(word in reason for word in _DENIED):
        return AccessDenied(f"{host} does not let cosign {verb}: {reason}; `docker login {host}`")
    if "status code 404" in reason:
        return SigningFailed(f"cosign {verb}: the image is not in {host}; `invoke push` brings it there ({reason})")
    if f"://{host}/" in reason or any(word in reason for word in _BROKEN):
        return RegistryFailed(f"{host} broke off while cosign was to {verb}: {reason}")
    if verb in ("sign", "attest") and not any(word in reason.lower() for word in _OURS):
        # A registry's answer that was cut off, garbled or another's; such words are as many as there are parsers.
        return RegistryFailed(f"cosign {verb}: what {host} answered cannot be used: {reason}")
    return SigningFailed(f"cosign {verb}: {reason}")


def _vouched(project: Project, identity: Identity, reference: str, statement: Statement) -> bool:
    """Whether cosign finds a keyless statement good. Of signatures it prints no envelope: that there is one has to do."""
    names = {predicate: name for name, predicate in PREDICATES.items()}
    program, host = signing_keys.program(), oci.parse_reference(reference).registry
    try:
        if statement.kind == SIGNATURE:
            authenticated(project, host, cosign.verify(program, identity, [reference]))
            return True
        argv = cosign.verify_attestation(program, identity, names.get(statement.kind, statement.kind), [reference])
        lines = [line for line in authenticated(project, host, argv).splitlines() if line.strip()]
    except SigningFailed:
        return False
    return any(dsse.envelope(line.encode()) == statement.envelope for line in lines)


def _vouched_alone(project: Project, identity: Identity, bundle: bytes, statement: Statement) -> bool:
    """Whether cosign finds a bundle good that is about the one digest which its statement names."""
    home = signing_keys.folder(project)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=home) as folder:
        path = Path(folder) / "bundle.json"
        path.write_bytes(bundle)
        digest = statement.about[0].removeprefix("sha256:") if len(statement.about) == 1 else ""
        argv = cosign.verify_blob_attestation(signing_keys.program(), identity, statement.kind, digest, path)
        try:
            signing_keys.call(project, argv)
        except CommandFailed:
            return False
    return True
