"""What a registry says, kind by kind: checked values, or ValueError."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from shipyard import logins, oci, registry_documents


def raw(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_a_config() -> None:
    document = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "config": {"Labels": {"a": "b", "c": None}},
        "history": [{"created_by": "one"}, {"created_by": "none", "empty_layer": True}, {}],
    }
    found = registry_documents.config(raw(document))
    assert (found.platform, found.labels, found.history) == ("linux/arm64", {"a": "b", "c": ""}, ("one", ""))
    assert registry_documents.config(b"{}") == registry_documents.Config()


@pytest.mark.parametrize(
    "document",
    [
        {"os": 5},
        {"os": ["linux"]},
        {"os": "linux", "architecture": {}},
        {"config": 5},
        {"config": {"Labels": ["a"]}},
        {"config": {"Labels": {"a": 5}}},
        {"config": {"Labels": {str(number): "" for number in range(1001)}}},
        {"history": {}},
        {"history": [5]},
        {"history": [{"created_by": 5}]},
    ],
)
def test_what_is_no_config(document: Any) -> None:
    with pytest.raises(ValueError):
        registry_documents.config(raw(document))


def test_tags() -> None:
    assert registry_documents.tags(raw({"tags": ["a", "1.2"]})) == ("a", "1.2")
    assert registry_documents.tags(raw({"tags": None})) == registry_documents.tags(b"{}") == ()
    for wrong in (5, ["a b"], ["\x1b"], ["a" * 129], [5], {"a": 1}, [""]):
        with pytest.raises(ValueError):
            registry_documents.tags(raw({"tags": wrong}))


def test_a_token() -> None:
    assert registry_documents.token(b'{"token": "a.b-c_d=="}') == "a.b-c_d=="
    assert registry_documents.token(b'{"token": "", "access_token": "x"}') == "x"
    for wrong in ("a b", "a\r\nX: 1", "\xe9", "", 5, None, ["a"], "a" * 17_000):
        with pytest.raises(ValueError):
            registry_documents.token(raw({"token": wrong}))


def test_a_refusal_is_its_words_or_its_first_characters() -> None:
    assert registry_documents.refusal(raw({"errors": [{"code": "A", "message": "b"}, {"code": "C"}]})) == "A b, C"
    assert registry_documents.refusal(raw({"errors": [{"code": "", "detail": {"Enclosed": {"Err": 28}}}]})) == (
        "(No space left on device)"
    )
    for odd in (b"gone", b'{"errors": 5}', b'{"errors": [5]}', b"[" * 50, b'{"errors": [{"code": ["x"]}]}', b"{}"):
        assert registry_documents.refusal(odd) == odd.decode()
    assert registry_documents.refusal(b"\xff" * 300) == "\ufffd" * 200


def test_where_a_registry_may_send_us() -> None:
    base = "https://r.example/v2/a"
    for place, found in (("/x", "https://r.example/x"), ("https://b/c?d=e", "https://b/c?d=e"), ("", base)):
        assert registry_documents.target(base, place) == found
    for wrong in (
        *("file:///etc/passwd", "ftp://a/", "javascript:1", "http://[", "https://u:p@a/", "https://a:0/"),
        *("https://a:99999/", "/a b", "/\x1b", "/\u202e", "https://\xe9/", "data:,x"),
    ):
        with pytest.raises(ValueError):
            registry_documents.target(base, wrong)


def test_headers_are_few_and_short() -> None:
    assert registry_documents.headers({"X-Odd": "a" * 10**6, "LINK": "b"}) == {"link": "b"}
    with pytest.raises(ValueError, match="its header link has 9,000 characters"):
        registry_documents.headers({"Link": "a" * 9000})
    assert registry_documents.following('</a>; rel="next"') == "/a"
    assert registry_documents.following('</a>; rel="prev"') == registry_documents.following("<" * 60_000) == ""
    begun = time.process_time()
    assert logins.challenge("a" * 60_000) is None
    logins.challenge('Bearer a="' * 6000)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("document", [{"manifests": 5}, {"manifests": [5]}, {"manifests": {"a": 1}}])
def test_a_list_that_is_none(document: Any) -> None:
    with pytest.raises(ValueError):
        registry_documents.referrers(raw(document))
    with pytest.raises(ValueError):
        oci.blobs({"config": document})
