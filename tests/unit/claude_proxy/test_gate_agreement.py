"""What the gate reads is what any other parser behind it would read: bodies and heads with random faults in them."""

from __future__ import annotations

import json
import random
import re

import orjson

from claude_proxy.gate import document, head
from claude_proxy.gate.refusal import Refusal

ROUNDS = 20_000
BODY = (
    b'{"model":"claude-haiku-5-5","max_tokens":10,"messages":[{"role":"user","content":[{"type":"text","text":"a\\u00e9"}]}],'
    b'"tools":[{"name":"Bash","input_schema":{"type":"object"}}],"stream":true}'
)
PIECES = (
    *(
        b'"model":"claude-opus-5-5",',
        b'"Model":"claude-opus-5-5",',
        b'"\\u006dodel":"claude-opus-5-5",',
        b'"model\\u0000":"x",',
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u",
        b"\n",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b" ",
        b"//",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"0", b"-", b"\xe2\x80\xa8", b"'", b"claude-opus-5-5", b"/**/"),
)
HEAD = (
    b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\nContent-Length: 10\r\n"
    b"x-api-key: run-abc\r\nanthropic-version: 2023-06-01\r\n\r\n"
)
SPLINTERS = (
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b"\x0b",
        b"\x85",
        b"\xff",
        b";",
        b",",
        b"Content-Length: 9\r\n",
    ),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"content-length:0\r\n",
        b"x-api-key: run-b\r\n",
        b"\r\n ",
        b"http://a",
        b"%2e",
        b"0",
    ),
)


def mutated(whole: bytes, pieces: tuple[bytes, ...], chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(whole) + 1)
        kept = at + chance.choice((0, 0, 0, 1, 3))
        whole = whole[:at] + chance.choice(pieces) + whole[kept:]
    return whole


def folded(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """As Go's parser does it: names without regard to case, the last one counts."""
    return {name.lower(): value for name, value in pairs}


def test_bodies() -> None:
    chance, accepted = random.Random(16), 0
    for _ in range(ROUNDS):
        raw = mutated(BODY, PIECES, chance)
        try:
            asked = document.read(raw)
        except Refusal:
            continue
        accepted += 1
        assert orjson.loads(raw)["model"] == asked.model, raw
        assert json.loads(raw, object_pairs_hook=folded)["model"] == asked.model, raw
    assert accepted > ROUNDS // 100


def test_heads() -> None:
    chance, accepted = random.Random(16), 0
    for _ in range(ROUNDS):
        raw = mutated(HEAD, SPLINTERS, chance)
        raw = raw[: raw.find(head.END) + 4] if head.END in raw else raw + head.END
        try:
            found = head.read(raw)
        except Refusal:
            continue
        accepted += 1
        # As the most lenient reader would have it: any line end, any blank, any order.
        lines = [line.partition(b":") for line in re.split(rb"[\r\n]+", raw)[1:]]
        fields = [(name.strip().lower(), value.strip()) for name, _, value in lines]
        assert [int(value) for name, value in fields if name == b"content-length"] == [found.length], raw
        assert [value for name, value in fields if name == b"x-api-key"] in ([found.token], [b""]) or not found.token, (
            raw
        )
        assert not [name for name, _ in fields if name == b"transfer-encoding"], raw
        assert raw.split(b" ")[1].startswith(b"/v1/messages"), raw
    assert accepted > ROUNDS // 100
