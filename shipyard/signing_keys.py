"""The key that signs releases: where it lies, making it once, and whether it can sign."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shipyard import dsse
from shipyard.commands import cosign
from shipyard.commands.cosign import Identity
from shipyard.engine import lock, packages
from shipyard.errors import CommandFailed, SigningFailed
from shipyard.machine import replace
from shipyard.models import Fault, Project
from shipyard.run import Completed, run
from shipyard.secrets import new_password

#: Variables that name another private key (a path or ``env://NAME``), another public one, and whose keyless signature counts.
KEY, PUBLIC = "SHIPYARD_SIGNING_KEY", "SHIPYARD_PUBLIC_KEY"
IDENTITY, ISSUER = "SHIPYARD_CERTIFICATE_IDENTITY", "SHIPYARD_CERTIFICATE_OIDC_ISSUER"
PASSWORD = "COSIGN_PASSWORD"
_FOLDER = Path("secrets/signing")
_INIT = "`invoke signing.init` makes one"
#: Who vouches for the identity of a job on GitHub (docs.github.com, "OpenID Connect reference").
_GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
#: Seconds for one call of cosign; a signature takes less than one.
LONGEST = 120.0


@dataclass(frozen=True)
class Made:
    """What ``init`` did: the files it made, by their places in the checkout."""

    created: tuple[str, ...]


def keyless() -> bool:
    """Whether an identity token signs instead of a key: there is one, and no key is named."""
    return not os.environ.get(KEY) and any(os.environ.get(name) for name in cosign.TOKENS)


def private(project: Project) -> str:
    """The private key: a path or ``env://NAME``; empty where an identity token signs."""
    return "" if keyless() else os.environ.get(KEY) or str(project.root / _FOLDER / "cosign.key")


def password(project: Project) -> str:
    """What opens the private key. Raises SigningFailed when it is not given."""
    if (given := os.environ.get(PASSWORD)) is not None:
        return given
    try:
        return (project.root / _FOLDER / "password").read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not text"
        msg = f"the signing key's password: {_FOLDER}/password: {reason}; put it there, or set {PASSWORD}"
        raise SigningFailed(msg) from None


def public(project: Project) -> Path:
    """Where the public key lies."""
    return Path(os.environ.get(PUBLIC) or project.root / "cosign.pub")


def trusted(project: Project) -> Path | Identity:
    """Whose signatures count: those of the public key, or, where releases are keyless, of an identity.

    Raises SigningFailed where a token signs and nothing says whose it is, and when half of an identity is given.
    """
    subject, issuer = os.environ.get(IDENTITY, ""), os.environ.get(ISSUER, "")
    workflow = os.environ.get("GITHUB_WORKFLOW_REF") if keyless() else None
    if not (subject or issuer) and workflow:
        return Identity(f"https://github.com/{workflow}", _GITHUB_ISSUER)
    if bool(subject) != bool(issuer) or (keyless() and not subject):
        msg = f"set both {IDENTITY} and {ISSUER}: they say whose keyless signatures count"
        raise SigningFailed(msg)
    return Identity(subject, issuer) if subject else public(project)


def present() -> bool:
    """Whether cosign is here without anything being unpacked first."""
    return packages.folder().exists() or shutil.which("cosign") is not None


def program() -> str:
    """The cosign that the toolkit unpacks; the one on PATH where nothing is unpacked yet."""
    if not packages.folder().exists() and (present := shutil.which("cosign")):
        return present
    if not packages.folder().exists():
        with lock("unpacking cosign"):
            packages.ensure()
    return str(packages.binaries() / "cosign")


def folder(project: Project) -> Path:
    """Cosign's home; nothing of a person's own configuration is read."""
    return project.state / "cosign"


def call(
    project: Project,
    argv: list[str],
    *,
    key: str = "",
    password: str | None = None,
    docker_config: Path | None = None,
    cwd: Path | None = None,
    seconds: float = LONGEST,
) -> Completed:
    """Run cosign with a home of its own, and nothing in its environment that steers it. Raises CommandFailed."""
    home = folder(project)
    if (
        not key and password is None
    ):  # without a key cosign keeps there whom Sigstore trusts; with one it writes nothing
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    variables = cosign.environment(os.environ, home, key=key, password=password, docker_config=docker_config)
    return run(argv, env=variables, cwd=cwd, timeout=max(0.1, min(seconds, LONGEST)))


def init(project: Project) -> Made:
    """Make a key pair and its password once; what is there stays. Killed in between, the same command goes on.

    Raises SigningFailed when there is a public key without its private half: whose is it?
    """
    place, created = project.root / _FOLDER, list[str]()
    key, shared = place / "cosign.key", project.root / "cosign.pub"
    with lock("making a signing key", project.state / "signing.lock"):
        if shared.exists() and not key.exists():
            msg = (
                f"cosign.pub is here, its private half is not: put that into {_FOLDER}/cosign.key, or remove cosign.pub"
            )
            raise SigningFailed(msg)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key.exists():
            if PASSWORD not in os.environ and not (place / "password").exists():
                replace(place / "password", new_password() + "\n", 0o600)
                created.append(f"{_FOLDER}/password")
            _generate(project, key)
            created.append(f"{_FOLDER}/cosign.key")
        if not shared.exists():
            replace(shared, public_half(project, str(key)), 0o644)
            created.append("cosign.pub")
    return Made(tuple(created))


def _generate(project: Project, key: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=key.parent) as scratch:
        try:
            call(project, cosign.generate(program()), password=password(project), cwd=Path(scratch))
        except CommandFailed as failed:
            msg = f"cosign could not make a key: {cosign.reason(failed.stderr)}"
            raise SigningFailed(msg) from failed
        made = Path(scratch) / "cosign.key"
        made.chmod(0o600)
        made.rename(key)


def public_half(project: Project, key: str) -> str:
    """The public key (PEM) of a private one. Raises SigningFailed when the password does not open it."""
    try:
        return call(project, cosign.public_key(program(), key), key=key, password=password(project)).stdout
    except CommandFailed as failed:
        reason = cosign.reason(failed.stderr)
        wrong = "decryption failed" in reason
        msg = f"the signing key {key}: " + ("its password is wrong" if wrong else reason)
        raise SigningFailed(f"{msg}; set {PASSWORD} or {_FOLDER}/password" if wrong else msg) from failed


def visible(project: Project) -> list[Fault]:
    """What can be said of the private key and its password without starting anything."""
    if keyless() or isinstance(_trusted_or_none(project), Identity):
        return []
    found = _private(private(project))
    try:
        password(project)
    except SigningFailed as failed:
        found.append(Fault("signing key", str(failed)))
    return found


def _trusted_or_none(project: Project) -> Path | Identity | None:
    try:
        return trusted(project)
    except SigningFailed:
        return None


def faults(project: Project) -> tuple[Fault, ...]:
    """Everything that keeps the key, or the identity token, from signing a release that its public key verifies."""
    try:
        whose = trusted(project)
        if isinstance(whose, Identity):
            return () if keyless() else (Fault(IDENTITY, "is set, and no identity token signs", "unset it"),)
        return tuple(_private(private(project))) or tuple(_pair(project, private(project), whose))
    except SigningFailed as failed:
        return (Fault("signing key", str(failed)),)


def _private(key: str) -> list[Fault]:
    """What is wrong with the private key before anything is tried."""
    if key.startswith("env://"):
        name = key.removeprefix("env://")
        return [] if os.environ.get(name) else [Fault(KEY, f"names the variable {name}, which is empty")]
    if "://" in key:
        return [Fault(KEY, f'"{key}" is neither a path nor env://NAME')]
    try:
        mode = Path(key).stat().st_mode
        with Path(key).open("rb"):
            pass
    except FileNotFoundError:
        return [Fault(key, "there is no signing key", f"{_INIT}; {KEY} names another")]
    except OSError as problem:
        return [Fault(key, f"the signing key cannot be read: {problem.strerror}")]
    if mode & 0o077:
        return [Fault(key, "others than its owner may read or change the signing key", f"chmod 600 {key}")]
    return []


def _pair(project: Project, key: str, shared: Path) -> list[Fault]:
    """Whether the password opens the private key, and the public one is its other half."""
    found, halves = list[Fault](), list[str]()
    readers: tuple[Callable[[], bytes], ...] = (
        lambda: public_half(project, key).encode(),
        lambda: public_bytes(shared),
    )
    for read in readers:
        try:
            halves.append(dsse.fingerprint(dsse.public_key(read(), str(shared))))
        except SigningFailed as failed:
            found.append(Fault("signing key", str(failed)))
    if len(set(halves)) == 2:
        hint = f"commit the one of {key}, or name its own with {PUBLIC}"
        found.append(Fault(str(shared), "is not the public half of the signing key", hint))
    return found


def public_bytes(path: Path) -> bytes:
    """The public key's file. Raises SigningFailed, saying how to get one."""
    try:
        return path.read_bytes()
    except OSError as problem:
        msg = f"the public key {path}: {problem.strerror}; {_INIT}, {PUBLIC} names another"
        raise SigningFailed(msg) from problem
