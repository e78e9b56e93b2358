"""Command lines of cosign 3. Signed with a key, no request leaves the machine but those to the registry.

``--tlog-upload`` is marked as deprecated in favour of a signing configuration without services. With one, cosign asks
Sigstore's TUF mirror for its trusted root all the same; with these two options it asks nobody.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Predicate type of cosign's own signatures (pkg/types of cosign 3).
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
#: What cosign calls the attestations of a release, and their predicate types.
PREDICATES = {"cyclonedx": "https://cyclonedx.org/bom", "slsaprovenance1": "https://slsa.dev/provenance/v1"}

#: Added where nobody reads what cosign prints: each attestation in full, as often as somebody hung it there.
SILENT = ("--output-file", os.devnull)
#: Where an identity token comes from: one that is given, or GitHub's service for a job with ``id-token: write``.
TOKENS = ("SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL")
_OFFLINE = ("--tlog-upload=false", "--use-signing-config=false")
#: Variables of these families change what cosign does (COSIGN_REPOSITORY, TUF_ROOT and their like).
_STEERING = ("COSIGN_", "SIGSTORE_", "TUF_")
_TOKEN_FAMILIES = ("ACTIONS_ID_TOKEN_",)


@dataclass(frozen=True)
class Identity:
    """Whose keyless signature counts: the certificate's subject, and who vouched for it (a URL)."""

    subject: str
    issuer: str


def generate(program: str) -> list[str]:
    """Make ``cosign.key`` and ``cosign.pub`` in the current folder; the password is in COSIGN_PASSWORD."""
    return [program, "generate-key-pair"]


def public_key(program: str, key: str) -> list[str]:
    """Print the public half of a private key (a path or ``env://NAME``), which its password opens."""
    return [program, "public-key", "--key", key]


def sign(program: str, key: str, references: Iterable[str]) -> list[str]:
    """Sign each reference, which names a digest. Without a key cosign takes the identity token of its environment."""
    return [program, "sign", "--yes", *_signer(key), *references]


def attest(program: str, key: str, kind: str, predicate: Path, reference: str) -> list[str]:
    """Attach a signed statement about a digest; ``kind`` is one of ``PREDICATES``."""
    return [program, "attest", "--yes", *_signer(key), "--type", kind, "--predicate", str(predicate), reference]


def attest_blob(program: str, key: str, kind: str, predicate: Path, digest: str, bundle: Path) -> list[str]:
    """Sign a statement of a kind (a URI) about a SHA-256 sum in hexadecimal digits; its bundle becomes a file."""
    what = ["--type", kind, "--predicate", str(predicate), "--hash", digest, "--bundle", str(bundle), str(predicate)]
    return [program, "attest-blob", "--yes", *_signer(key), *what]


def verify_blob_attestation(program: str, trusted: Path | Identity, kind: str, digest: str, bundle: Path) -> list[str]:
    """Check the bundle in a file: whose it is, its kind, and that it is about this SHA-256 sum."""
    what = ["--type", kind, "--bundle", str(bundle), "--digest", digest, "--digestAlg", "sha256"]
    return [program, "verify-blob-attestation", *_trusted(trusted), *what]


def _signer(key: str) -> list[str]:
    return ["--key", key, *_OFFLINE] if key else []


def verify(program: str, trusted: Path | Identity, references: Iterable[str]) -> list[str]:
    """Check that each reference carries a signature of a public key's owner, or of an identity."""
    return [program, "verify", *_trusted(trusted), *references]


def verify_attestation(program: str, trusted: Path | Identity, kind: str, references: Iterable[str]) -> list[str]:
    """Check the attestations of one kind; prints each one that is good as a line with its envelope."""
    return [program, "verify-attestation", *_trusted(trusted), "--type", kind, *references]


def _trusted(trusted: Path | Identity) -> list[str]:
    if isinstance(trusted, Identity):
        return ["--certificate-identity", trusted.subject, "--certificate-oidc-issuer", trusted.issuer]
    return ["--key", str(trusted), "--insecure-ignore-tlog"]


def environment(
    base: Mapping[str, str],
    home: Path,
    *,
    key: str = "",
    password: str | None = None,
    docker_config: Path | None = None,
) -> dict[str, str]:
    """Variables for cosign: a home of its own, nothing that steers it, and an identity token only where no key is used.

    ``key`` may be ``env://NAME``: that variable stays, whatever its name.
    """
    dropped = (*_STEERING, *(() if not key and password is None else _TOKEN_FAMILIES))
    wanted = {key.removeprefix("env://"), *(() if key or password is not None else TOKENS)}
    found = {name: value for name, value in base.items() if name in wanted or not name.startswith(dropped)}
    found |= {"HOME": str(home), "NO_COLOR": "1"}
    if docker_config:
        found["DOCKER_CONFIG"] = str(docker_config)
    if password is not None:
        found["COSIGN_PASSWORD"] = password
    return found


def reason(output: str) -> str:
    """The line in which cosign says why it refused: its last one, without the beginnings that all have."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return re.sub(r"^(error during command execution: )?(Error: )?(signing \[[^]]*\]: )?", "", last)
