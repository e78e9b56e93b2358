"""JSON of a stranger is a checked value, or one clear error."""

from __future__ import annotations

import time

import pytest

from shipyard import strict_json
from shipyard.strict_json import Malformed


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is no JSON"),
        (b"\0", "it is no JSON"),
        (b"\xff", "it is not UTF-8"),
        (b"\xef\xbb\xbf{}", "UTF-8 BOM"),
        ("{}".encode("utf-16"), "it is not UTF-8"),
        (b"[" * 4_000_000, "more than 64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 levels"),
        (b"]" * 70 + b"[" * 200_000, "levels|it is no JSON"),
        (b"[" + b"[]," * 1_400_000 + b"[]]", "more than 1,000,000 members and items"),
        (b'"' + b'\\"' * 2_000_000, "Unterminated string"),
        (b'["' + b'","' * 1_100_000 + b'"]', "more than 1,000,000"),
        (b'{"a": 1, "a": 2}', "the member 'a' twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "the member 'a' twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "too large"),
        (b"9" * 5000, "a number of 5000 digits"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b"{} {}", "it is no JSON"),
    ],
)
def test_what_is_refused(raw: bytes, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(Malformed, match=reason):
        strict_json.load(raw)
    assert time.process_time() - begun < 10


def test_what_is_taken() -> None:
    deep = b"[" * 64 + b"]" * 64
    assert strict_json.load(deep)
    assert strict_json.load(b'{"a": "]]]{{{,,,\\"", "b": [1, -2.5e3, null, true]}') == {
        "a": ']]]{{{,,,"',
        "b": [1, -2500.0, None, True],
    }
    assert strict_json.load('"\U0001f600 \\ud83d\\ude00"'.encode()) == "\U0001f600 \U0001f600"
    with pytest.raises(Malformed, match="not a JSON object"):
        strict_json.table(b"[]")


def test_members_are_of_their_type() -> None:
    for read, wrong in (
        (lambda: strict_json.text(5, "x"), "its x is an integer, not a string"),
        (lambda: strict_json.text(None, "x"), "its x is absent"),
        (lambda: strict_json.text("a" * 5000, "x"), "more than 4,096 characters"),
        (lambda: strict_json.text("\ud800", "x"), "lone surrogate"),
        (lambda: strict_json.size(True, "x"), "its x is true or false, not a number of bytes"),
        (lambda: strict_json.size(-1, "x"), "not a number of bytes"),
        (lambda: strict_json.size(2**63, "x"), "not a number of bytes"),
        (lambda: strict_json.size(1.0, "x"), "its x is a number"),
        (lambda: strict_json.mapping([], "x"), "its x is a list, not an object"),
        (lambda: strict_json.sequence({}, "x", most=1), "its x is an object, not a list"),
        (lambda: strict_json.sequence([1, 2], "x", most=1), "its x has 2 items; at most 1"),
    ):
        with pytest.raises(Malformed, match=wrong):
            read()
    assert (strict_json.optional_text(None, "x"), strict_json.mapping(None, "x")) == ("", {})
    assert (strict_json.sequence(None, "x", most=1), strict_json.size(2**63 - 1, "x")) == ((), 2**63 - 1)
