from __future__ import annotations

import pytest

from claude_proxy.gate import head
from claude_proxy.gate.refusal import Refusal

FIELDS = ("Host: a", "Content-Type: application/json", "Content-Length: 2", "x-api-key: run-abc")


def raw(*fields: str, line: str = "POST /v1/messages?beta=true HTTP/1.1", given: tuple[str, ...] = FIELDS) -> bytes:
    return "\r\n".join([line, *given, *fields, "", ""]).encode("latin-1")


def status(content: bytes) -> int:
    with pytest.raises(Refusal) as refused:
        head.read(content)
    return refused.value.status


def without(name: str) -> tuple[str, ...]:
    return tuple(each for each in FIELDS if not each.lower().startswith(name))


def test_what_the_cli_sends() -> None:
    found = head.read(raw("anthropic-beta: a,b", "X-Stainless-Lang: js", "Cookie: c", "Connection: keep-alive"))
    assert (found.path, found.target) == (b"/v1/messages", b"/v1/messages?beta=true")
    assert (found.length, found.token, found.last) == (2, b"run-abc", False)
    assert found.headers == ((b"anthropic-beta", b"a,b"), (b"x-stainless-lang", b"js"))


def test_a_bearer_token_is_a_token_too() -> None:
    assert head.read(raw("Authorization: Bearer run-x", given=without("x-api-key"))).token == b"run-x"


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Authorization: Basic run-x",),
        ("Authorization: Bearer  run-x",),
        ("x-api-key: run abc",),
        ("x-api-key: run-x", "Authorization: Bearer run-x"),
    ],
)
def test_no_token_or_an_unclear_one_is_none(fields: tuple[str, ...]) -> None:
    assert head.read(raw(*fields, given=without("x-api-key"))).token == b""


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/messages HTTP/1.1",
        "HEAD / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "POST http://elsewhere/v1/messages HTTP/1.1",
        "POST //v1/messages HTTP/1.1",
        "POST /v1/messages/ HTTP/1.1",
        "POST /v1/messages/batches HTTP/1.1",
        "POST /v1/messages/../models HTTP/1.1",
        "POST /v1/%6dessages HTTP/1.1",
        "POST /v1/messages?beta=true&model=x HTTP/1.1",
        "POST /v1/messages#x HTTP/1.1",
        "POST /V1/messages HTTP/1.1",
    ],
)
def test_nothing_but_two_paths_passes(line: str) -> None:
    assert status(raw(line=line)) == 403


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/messages HTTP/1.0",
        "POST /v1/messages HTTP/2.0",
        "POST /v1/messages",
        "post /v1/messages HTTP/1.1",
        "POST  /v1/messages HTTP/1.1",
        "POST\t/v1/messages HTTP/1.1",
        " POST /v1/messages HTTP/1.1",
        "POST /v1/messages HTTP/1.1 ",
        "POST /v1/m\u00e9ssages HTTP/1.1",
        "\r\nPOST /v1/messages HTTP/1.1",
        "PRI * HTTP/2.0",
        "",
    ],
)
def test_an_odd_first_line_is_refused(line: str) -> None:
    assert status(raw(line=line)) == 400


@pytest.mark.parametrize(
    "field",
    [
        " folded: value",
        "\tfolded: value",
        "a : b",
        ": b",
        "no colon",
        "a: b\nc: d",
        "a: b\rc: d",
        "a: \x00",
        "a: \x7f",
        "b\u00fc: x",
        "a(b): x",
        "Host: b",
        "HOST: a",
        "content-length: 2",
        "Content-Type: application/json",
        "x-api-key: run-abc",
        "Authorization: Bearer x\r\nAuthorization: Bearer y",
        "Connection: close\r\nConnection: keep-alive",
    ],
)
def test_fields_that_parsers_read_differently_are_refused(field: str) -> None:
    assert status(raw(field)) == 400


@pytest.mark.parametrize("length", ["", "+2", "-2", "0x2", "2,2", "2 2", "1e1", "\u0662", "2;", "9" * 10])
def test_a_length_is_decimal_digits(length: str) -> None:
    assert status(raw(f"Content-Length: {length}".encode().decode("latin-1"), given=without("content-length"))) == 411


@pytest.mark.parametrize(
    "field",
    [
        *("Transfer-Encoding: chunked", "transfer-encoding: identity", "Upgrade: h2c", "Expect: 100-continue"),
        *("Trailer: a", "TE: trailers", "Content-Encoding: gzip"),
    ],
)
def test_only_a_plain_body_with_a_length_passes(field: str) -> None:
    assert status(raw(field)) == 411
    assert status(raw(given=without("content-length"))) == 411


def test_sizes_are_bounded() -> None:
    assert status(raw(f"Content-Length: {(32 << 20) + 1}", given=without("content-length"))) == 413
    assert status(raw("a: " + "x" * head.LARGEST)) == 431
    assert status(raw(*(f"a{number}: x" for number in range(head.MOST_HEADERS)))) == 431
    assert status(raw(given=without("host"))) == 400
    assert status(raw("Content-Type: text/plain", given=without("content-type"))) == 415


def test_a_line_of_blanks_costs_no_time() -> None:
    assert status(raw("a:" + " \t" * 7000 + "\x01")) == 400


def test_the_longer_context_needs_a_model_that_was_asked_for_with_it() -> None:
    found = head.read(raw("anthropic-beta: one, Context-1M-2025-08-07,two", "anthropic-beta: context-1m-x"))
    assert found.onward(long_context=False) == [(b"anthropic-beta", b"one,two")]
    assert found.onward(long_context=True) == list(found.headers)
