"""Signed statements: Sigstore bundles with a DSSE envelope around an in-toto statement. Pure functions.

What cosign 3 attaches to an image (sigstore.dev/bundle v0.3, github.com/secure-systems-lab/dsse v1, in-toto v0.1 and v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipyard import strict_json
from shipyard.errors import SigningFailed

#: Media type of a bundle, the one layer of what is attached.
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: Members and items of a bundle without its payload, signatures of one envelope, subjects of one statement.
_COUNT, _SIGNATURES, _SUBJECTS = 10_000, 16, 1024


@dataclass(frozen=True)
class Statement:
    """What somebody signed: of which kind, about which digests, and what it says. ``envelope`` is the signed bytes."""

    kind: str
    about: tuple[str, ...]
    predicate: Mapping[str, Any]
    envelope: bytes
    signatures: tuple[bytes, ...]

    def signed_by(self, key: Any) -> bool:
        """Whether one of the signatures was made with the private half of a key that ``public_key`` read."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
        from cryptography.hazmat.primitives.hashes import SHA256

        summed = hashlib.sha256(self.envelope).digest()
        for signature in self.signatures:
            try:
                key.verify(signature, summed, ECDSA(Prehashed(SHA256())))
            except InvalidSignature:
                continue
            return True
        return False


def public_key(pem: bytes, place: str) -> Any:
    """A public key as ``cosign generate-key-pair`` makes it. Raises SigningFailed, naming ``place``, on anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        msg = f"{place} is no public key of cosign's (ECDSA on P-256, PEM); `cosign public-key --key KEY` prints one"
        raise SigningFailed(msg)
    return key


def fingerprint(key: Any) -> str:
    """A public key's name: the SHA-256 of its DER form, as cosign's bundles hint at it, in hexadecimal digits."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def parse(bundle: bytes) -> Statement:
    """The statement of a bundle. Raises ValueError where it is none, whatever the bytes are."""
    envelope = strict_json.table(bundle, count=_COUNT).get("dsseEnvelope")
    if not isinstance(envelope, dict):
        msg = f"it has no envelope: its dsseEnvelope is {strict_json.kind(envelope)}"
        raise strict_json.Malformed(msg)
    kind = strict_json.text(envelope.get("payloadType"), "payloadType", most=255)
    if kind != _STATEMENT:
        msg = f"its payload is no in-toto statement but {kind!r}"
        raise strict_json.Malformed(msg)
    payload = _base64(envelope.get("payload"), "payload", len(bundle))
    signatures = strict_json.sequence(envelope.get("signatures"), "list of signatures", most=_SIGNATURES)
    sealed = tuple(_base64(strict_json.mapping(each, "signature").get("sig"), "sig", 4096) for each in signatures)
    statement = strict_json.table(payload)
    about = strict_json.sequence(statement.get("subject"), "list of subjects", most=_SUBJECTS)
    predicate_type = strict_json.text(statement.get("predicateType"), "predicateType", most=1024)
    predicate = strict_json.mapping(statement.get("predicate"), "predicate")
    signed = pre_authentication(kind, payload)
    return Statement(predicate_type, tuple(map(_subject, about)), predicate, signed, sealed)


def envelope(text: bytes) -> bytes:
    """The signed bytes of an envelope alone, as cosign prints one; empty where it is none."""
    try:
        found = strict_json.table(text, count=_COUNT)
        kind = strict_json.text(found.get("payloadType"), "payloadType", most=255)
        return pre_authentication(kind, _base64(found.get("payload"), "payload", len(text)))
    except ValueError:
        return b""


def _subject(value: Any) -> str:
    """The digest that one subject names."""
    digests = strict_json.mapping(strict_json.mapping(value, "subject").get("digest"), "digest of a subject")
    found = f"sha256:{strict_json.text(digests.get('sha256'), 'sha256 of a subject', most=64)}"
    if not _DIGEST.fullmatch(found):
        msg = "a subject of it has no SHA-256 digest"
        raise strict_json.Malformed(msg)
    return found


def _base64(value: Any, name: str, most: int) -> bytes:
    try:
        return base64.b64decode(strict_json.text(value, name, most=most), validate=True)
    except (binascii.Error, ValueError) as problem:
        if isinstance(problem, strict_json.Malformed):
            raise
        msg = f"its {name} is no base64"
        raise strict_json.Malformed(msg) from None


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE protocol, "PAE")."""
    return b" ".join((b"DSSEv1", str(len(kind.encode())).encode(), kind.encode(), str(len(payload)).encode(), payload))
