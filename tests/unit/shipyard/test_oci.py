"""Digests, references and documents of OCI images."""

import pytest

from shipyard import oci
from shipyard.errors import UnknownName
from shipyard.oci import Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api", Reference("", "api")),
        ("api:1.2.3-cuda", Reference("", "api", "1.2.3-cuda")),
        ("team/api", Reference("", "team/api")),
        ("localhost/api", Reference("localhost", "api")),
        ("127.0.0.1:5000/api", Reference("127.0.0.1:5000", "api")),
        ("[::1]:5000/api:1", Reference("[::1]:5000", "api", "1")),
        ("ghcr.io/team/api@" + DIGEST, Reference("ghcr.io", "team/api", "", DIGEST)),
        (f"ghcr.io/team/a_b/c--d:v1@{DIGEST}", Reference("ghcr.io", "team/a_b/c--d", "v1", DIGEST)),
    ],
)
def test_a_reference_in_its_parts_and_back(text: str, expected: Reference) -> None:
    assert oci.parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no repository"),
        ("Api", "'Api' is no repository"),
        ("ghcr.io/", "is no repository"),
        ("ghcr.io/../x", "is no repository"),
        ("a//b", "is no repository"),
        ("a/" + "b" * 300, "is no repository"),
        ("api:", "'' is no tag"),
        ("api:-x", "'-x' is no tag"),
        ("api:" + "x" * 129, "is no tag"),
        ("api@sha256:12", "'sha256:12' is no digest"),
        ("api@sha512:" + "0" * 64, "is no digest"),
        ("api@" + DIGEST.upper(), "is no digest"),
        ("user:secret@host.io/api", "is no digest"),
        ("https://ghcr.io/api", "is no registry"),
        ("host.io:123456/api", "is no registry"),
        ("a b/c", "is no repository"),
        ("api:1\n", "is no tag"),
    ],
)
def test_what_is_no_reference_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(UnknownName) as refused:
        oci.parse_reference(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:5000", "ghcr.io/team", "localhost/a/b-c", "[::1]:5000/a", "registry.example.org:443/x/"]
)
def test_a_registry_with_its_prefix(text: str) -> None:
    assert oci.parse_registry(text) == text.rstrip("/")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://ghcr.io/team", "begins with a scheme"),
        ("", "is no HOST or HOST:PORT"),
        ("-x", "is no HOST or HOST:PORT"),
        ("x y", "is no HOST or HOST:PORT"),
        ("127.0.0.1:99999", "is no HOST or HOST:PORT"),
        ("127.0.0.1:5000/A/B", "'A/B' is no prefix"),
        ("user:s3cr3t@127.0.0.1:5000/a", "it holds a login"),
    ],
)
def test_what_is_no_registry_is_told_why_without_a_password(text: str, reason: str) -> None:
    with pytest.raises(UnknownName) as refused:
        oci.parse_registry(text)
    assert reason in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_digests() -> None:
    assert oci.digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert oci.is_digest(DIGEST)
    assert not any(oci.is_digest(each) for each in (None, 1, "", DIGEST + "0", DIGEST + "\n", DIGEST[:-1] + "g"))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"os": "linux", "architecture": "amd64"}, "linux/amd64"),
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64"),
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, "linux/arm/v7"),
        ({"os": "unknown", "architecture": "unknown"}, "unknown/unknown"),
        ({}, ""),
        (None, ""),
        ("linux", ""),
    ],
)
def test_platforms(document: object, expected: str) -> None:
    assert oci.platform(document) == expected


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"digest": DIGEST},
        {"digest": DIGEST, "size": "1"},
        {"digest": DIGEST, "size": -1},
        {"digest": DIGEST, "size": True},
        {"digest": "../../etc/passwd", "size": 1},
    ],
)
def test_a_strange_descriptor_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="not a descriptor"):
        oci.descriptor(document)


def test_documents() -> None:
    one = {"mediaType": oci.CONFIG, "digest": DIGEST, "size": 1}
    two = {"mediaType": "layer", "digest": DIGEST, "size": 2, "platform": {"os": "linux", "architecture": "amd64"}}
    assert [each.size for each in oci.blobs({"config": one, "layers": [two]})] == [1, 2]
    assert oci.manifests({"manifests": [two]}) == (oci.Descriptor("layer", DIGEST, 2, "linux/amd64"),)
    assert oci.manifests({}) == ()
    assert oci.media_type({"mediaType": oci.DOCKER_INDEX}) == oci.DOCKER_INDEX
    assert oci.media_type({"manifests": []}) == oci.INDEX
    assert oci.media_type({"config": one}) == oci.MANIFEST
    with pytest.raises(ValueError, match="not a JSON object"):
        oci.parse(b"[]")
