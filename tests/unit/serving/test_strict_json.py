"""serving.strict_json: one reading of a body; what two parsers could read differently is refused, the rest is written anew."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from serving import body, strict_json
from serving.errors import ApiError
from serving.strict_json import Names, StrictJsonError
from tests.support.asgi import Answer, ask

NAMES = Names(("model", "messages", "stream", "stream_options", "session_id"))

REFUSED = {
    "a member twice": (b'{"model":"a","model":"b"}', "model"),
    "twice, once by escapes": (rb'{"model":"a","mod\u0065l":"b"}', "model"),
    "twice, the same value": (b'{"model":"a","model":"a"}', "model"),
    "twice, deeper": (b'{"model":"a","x":[1,{"y":{"z":1,"z":2}}]}', "x[1].y.z"),
    "twice, hidden behind escaped colons": (rb'{"model":"a","x":"\u003a\u003A\\\u003a","x":":"}', "x"),
    "twice, hidden behind a colon that is none": (rb'{"a":"\\u003a","a":"b:"}', "a"),
    "in capitals": (b'{"model":"a","MODEL":"b"}', "MODEL"),
    "in another case alone": (b'{"Model":"a"}', "Model"),
    "a long s": ('{"\u017ftream":true}'.encode(), "\u017ftream"),
    "a long s by an escape": (rb'{"\u017ftream":true}', "\u017ftream"),
    "a Kelvin sign": ('{"to\u212aen":1,"token":1}'.encode(), "token"),
    "a dotless i": ('{"sess\u0131on_id":1}'.encode(), "sess\u0131on_id"),
    "a dotted I": ('{"SESS\u0130ON_ID":1}'.encode(), "SESS\u0130ON_ID"),
    "wide letters": ('{"\uff4dodel":1}'.encode(), "\uff4dodel"),
    "invisible letters": ('{"mod\u200bel":1}'.encode(), "mod\u200bel"),
    "a tail after NUL": (rb'{"model\u0000x":1}', "model\0x"),
    "blanks around": (b'{" model":1}', " model"),
    "camel case": (b'{"streamOptions":1}', "streamOptions"),
    "dashes": (b'{"stream-options":1}', "stream-options"),
    "two strangers that are alike": (b'{"top_k":1,"topK":2}', "topK"),
    "an integer beyond 64 bits": (b'{"n":18446744073709551616}', "n"),
    "a negative one": (b'{"n":[0,-9223372036854775809]}', "n[1]"),
    "an endless one": (b'{"n":' + b"9" * 300 + b"}", "n"),
    "NaN": (b'{"n":NaN}', ""),
    "Infinity": (b'{"n":-Infinity}', ""),
    "beyond a double": (b'{"n":1e999}', ""),
    "a leading zero": (b'{"n":01}', ""),
    "a plus": (b'{"n":+1}', ""),
    "hexadecimal": (b'{"n":0x1}', ""),
    "a lone surrogate": (rb'{"n":"\ud800"}', ""),
    "a surrogate as bytes": (b'{"n":"\xed\xa0\x80"}', ""),
    "no UTF-8": (b'{"n":"\xff"}', ""),
    "an overlong form": (b'{"n":"\xc0\xae"}', ""),
    "UTF-16": ('{"n":1}'.encode("utf-16"), ""),
    "a byte order mark": (b'\xef\xbb\xbf{"n":1}', ""),
    "a tail": (b'{"n":1}{"n":2}', ""),
    "a NUL at the end": (b'{"n":1}\x00', ""),
    "a comment": (b'{"n":1/**/}', ""),
    "a comma at the end": (b'{"n":1,}', ""),
    "single quotes": (b"{'n':1}", ""),
    "a raw line end in a string": (b'{"n":"a\nb"}', ""),
    "a form feed between": (b'{\x0c"n":1}', ""),
    "too deep": (b'{"n":' + b"[" * 254 + b"]" * 254 + b"}", ""),
    "far too deep": (b'{"n":' + b"[" * 100_000, ""),
    "no object": (b'[{"n":1}]', ""),
    "nothing": (b"", ""),
    "too many members": (json.dumps({f"n{number}": 0 for number in range(257)}).encode(), ""),
    "a very long name": (b'{"' + b"n" * 257 + b'":1}', "n" * 100),
}
TAKEN = {
    "colons and escapes": (rb'{"a":"\u003a:\\u003a","\u003a":{":":1}}', {"a": ":" + ":\\u003a", ":": {":": 1}}),
    "long digits in a string": (b'{"a":"12345678901234567890"}', {"a": "12345678901234567890"}),
    "the largest integers": (
        b'{"a":[18446744073709551615, -9223372036854775808]}',
        {"a": [18446744073709551615, -9223372036854775808]},
    ),
    "many digits after a point": (b'{"a":0.12345678901234567890123}', {"a": 0.12345678901234567890123}),
    "the same name in two objects": (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
    "case in a schema": (b'{"tools":[{"Name":1,"name":2}]}', {"tools": [{"Name": 1, "name": 2}]}),
    "blanks": (b' {"a" : [ 1 , 2 ] }\r\n', {"a": [1, 2]}),
    "similar, but others": (b'{"modem":1,"models":2}', {"modem": 1, "models": 2}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_by_name(name: str) -> None:
    raw, member = REFUSED[name]
    with pytest.raises(StrictJsonError) as caught:
        strict_json.read(raw, NAMES)
    assert caught.value.member == member
    with pytest.raises(ApiError) as refused:
        body.parse(raw, NAMES)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_json", member or None)


@pytest.mark.parametrize("name", TAKEN)
def test_the_rest_is_taken_and_written_anew(name: str) -> None:
    raw, value = TAKEN[name]
    found = strict_json.read(raw, NAMES)
    assert found.members == value
    assert json.loads(found.text) == value
    assert b": " not in found.text.replace(b'":"', b"")


def test_against_a_reader_that_sees_every_member() -> None:
    """Documents made by chance, some with duplicates: the verdict is that of the standard library with a hook."""
    chance = random.Random(5)
    verdicts = set()
    for _ in range(3000):
        raw = written(chance, 3).encode()
        try:
            strict_json.read(b'{"x":' + raw + b"}")
            refused = False
        except StrictJsonError:
            refused = True
        assert refused == doubled(raw), raw
        verdicts.add(refused)
    assert verdicts == {True, False}


def written(chance: random.Random, depth: int) -> str:
    """Return JSON with few different names, so that duplicates are common, and with many ways to write a colon."""
    kind = chance.randrange(4 if depth else 2)
    texts = ('":"', r'"\u003a"', r'"\u003A\\u003a"', r'"\\"', r'"\\\u003a"', '"a"', '"\\""', r'"\":\""')
    if kind == 0:
        return chance.choice(texts)
    if kind == 1:
        return chance.choice(("1", "-0", "1.5e3", "true", "null", "12345678901234567890"))
    if kind == 2:
        return "[" + ",".join(written(chance, depth - 1) for _ in range(chance.randrange(3))) + "]"
    members = [f"{chance.choice(texts)} : {written(chance, depth - 1)}" for _ in range(chance.randrange(4))]
    return "{" + ",".join(members) + "}"


def doubled(raw: bytes) -> bool:
    found = []

    def pairs(members: list[tuple[str, Any]]) -> None:
        found.append(len(dict(members)) < len(members))

    json.loads(raw, object_pairs_hook=pairs)
    return any(found)


def sent(headers: Mapping[str, str], raw: bytes = b'{"a":1}') -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            found = await body.document(scope, receive, 10_000_000)
            answer = json.dumps(len(found.text)).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": answer})
        except ApiError as error:
            await error.response()(scope, receive, send)

    return asyncio.run(ask(app, "POST", "/", raw, headers))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-type": 'application/json;charset="utf-8"'}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json; charset=utf-8; charset=utf-7"}, 415),
        ({"content-type": "application/json; charset="}, 415),
        ({"content-type": "application/json, text/plain"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": ""}, 415),
    ],
)
def test_a_body_is_json_in_utf_8_as_it_is(headers: dict[str, str], status: int) -> None:
    assert sent(headers).status == status


def test_a_large_body_is_read_beside_others() -> None:
    assert sent({}, b'{"a":"' + b"x" * 500_000 + b'"}').json == 500_008
    assert sent({}, b'{"a":"' + b"x" * 500_000 + b'","a":1}').json["error"]["param"] == "a"
