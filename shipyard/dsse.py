"""Signed statements: Sigstore bundles with a DSSE envelope around an in-toto statement. Pure functions.

What cosign 3 attaches to an image (sigstore.dev/bundle v0.3, github.com/secure-systems-lab/dsse v1, in-toto v0.1 and v1).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.errors import SigningFailed

#: Media type of a bundle, the one layer of what is attached.
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"


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
        from cryptography.hazmat.primitives.hashes import SHA256

        for signature in self.signatures:
            try:
                key.verify(signature, self.envelope, ECDSA(SHA256()))
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
    """The statement of a bundle. Raises ValueError where it is none."""
    document = json.loads(bundle)
    try:
        envelope = document["dsseEnvelope"]
        kind, payload = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        signatures = tuple(base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"])
        statement = json.loads(payload)
        about = tuple(f"sha256:{each['digest']['sha256']}" for each in statement["subject"])
        predicate, predicate_type = statement.get("predicate") or {}, str(statement["predicateType"])
    except (KeyError, TypeError, AttributeError) as problem:
        msg = f"it has no {problem}" if isinstance(problem, KeyError) else "it is of another shape"
        raise ValueError(msg) from problem
    if kind != _STATEMENT or not isinstance(predicate, dict):
        msg = f"its payload is no in-toto statement but {kind}"
        raise ValueError(msg)
    return Statement(predicate_type, about, predicate, pre_authentication(kind, payload), signatures)


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE protocol, "PAE")."""
    return b" ".join((b"DSSEv1", str(len(kind.encode())).encode(), kind.encode(), str(len(payload)).encode(), payload))
