"""Statements in Sigstore bundles: read, and held against keys made here."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from shipyard import dsse
from shipyard.errors import SigningFailed

KIND = "application/vnd.in-toto+json"
HEX = "ab" * 32


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def bundle(*keys: Any, kind: str = KIND, statement: Any = None) -> bytes:
    """What cosign writes, signed by each key."""
    said = {"predicateType": "https://p", "subject": [{"digest": {"sha256": HEX}}], "predicate": {"a": 1}}
    payload = json.dumps(said if statement is None else statement).encode()
    signed = dsse.pre_authentication(kind, payload)
    signatures = [{"sig": base64.b64encode(key.sign(signed, ec.ECDSA(SHA256()))).decode()} for key in keys]
    envelope = {"payloadType": kind, "payload": base64.b64encode(payload).decode(), "signatures": signatures}
    return json.dumps({"mediaType": dsse.BUNDLE, "dsseEnvelope": envelope}).encode()


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    """The example of the DSSE protocol."""
    found = dsse.pre_authentication("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_statement_is_read_and_belongs_to_its_key() -> None:
    ours, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    found = dsse.parse(bundle(ours))
    assert (found.kind, found.about, found.predicate) == ("https://p", (f"sha256:{HEX}",), {"a": 1})
    assert found.signed_by(dsse.public_key(pem(ours), "k"))
    assert not found.signed_by(dsse.public_key(pem(other), "k"))
    assert dsse.parse(bundle(other, ours)).signed_by(dsse.public_key(pem(ours), "k"))
    assert not dsse.parse(bundle()).signed_by(dsse.public_key(pem(ours), "k"))


def test_one_changed_byte_ends_a_signature() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    document = json.loads(bundle(key))
    payload = base64.b64decode(document["dsseEnvelope"]["payload"]).replace(b'"a": 1', b'"a": 2')
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    assert not dsse.parse(json.dumps(document).encode()).signed_by(dsse.public_key(pem(key), "k"))


@pytest.mark.parametrize(
    "broken",
    [
        b"no json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"dsseEnvelope": null}',
        b'{"dsseEnvelope": {"payloadType": "x", "payload": "%", "signatures": []}}',
        bundle(kind="text/plain"),
        bundle(statement=[]),
        bundle(statement={"subject": [], "predicate": {}}),
        bundle(statement={"subject": ["x"], "predicateType": "p"}),
        bundle(statement={"subject": [{"digest": {"sha512": HEX}}], "predicateType": "p"}),
        bundle(statement={"subject": [], "predicateType": "p", "predicate": ["x"]}),
    ],
)
def test_what_is_no_statement_is_a_value_error(broken: bytes) -> None:
    with pytest.raises(ValueError):
        dsse.parse(broken)


@pytest.mark.parametrize(
    "text",
    [b"", b"no key", pem(ec.generate_private_key(ec.SECP384R1())), pem(rsa.generate_private_key(65537, 2048))],
    ids=["empty", "text", "another curve", "RSA"],
)
def test_only_keys_as_cosign_makes_them(text: bytes) -> None:
    with pytest.raises(SigningFailed, match=r"^cosign\.pub is no public key"):
        dsse.public_key(text, "cosign.pub")


def test_a_key_s_name_is_the_digest_of_its_der_form() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = base64.b64decode("".join(pem(key).decode().splitlines()[1:-1]))
    import hashlib

    assert dsse.fingerprint(dsse.public_key(pem(key), "k")) == "sha256:" + hashlib.sha256(der).hexdigest()
