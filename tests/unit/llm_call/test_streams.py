"""How an upstream's stream begins, and what is asked for on the gateway's own account and hidden again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from llm_call.api import counting, opening
from tests.support.asgi import Answer, ask
from tests.unit.llm_call.test_gateway import BODY, Pool, Redis, Reply, gateway

STREAM = {**BODY, "stream": True}
EVENTS = "text/event-stream"
USAGE = {"prompt_tokens": 7, "completion_tokens": 4}
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def piece(text: str, **more: Any) -> bytes:
    return event(id="x", choices=[{"index": 0, "delta": {"content": text}}], **more)


def counted(*texts: str) -> bytes:
    """The stream of a server that was asked for usage."""
    return b"".join(piece(text, usage=None) for text in texts) + event(id="x", choices=[], usage=USAGE) + DONE


def plain(*texts: str) -> bytes:
    return b"".join(map(piece, texts)) + DONE


def tokens(shown: str, kind: str) -> float:
    name = f'llm_call_tokens_total{{kind="{kind}",model="d/*",upstream="double"}} '
    return sum(float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith(name))


def asked(pool: Pool, body: dict[str, Any], redis: Redis | None = None) -> tuple[Answer, str]:
    async def run() -> tuple[Answer, str]:
        app = gateway(pool, redis) if redis else gateway(pool)
        answer = await ask(app, "POST", "/v1/chat/completions", json.dumps(body).encode())
        return answer, (await ask(app, "GET", "/metrics")).body.decode()

    return asyncio.run(run())


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("fixed", [{}, {"temperature": 0}], ids=["alone", "shared"])
def test_the_usage_of_a_stream_is_counted_and_hidden(size: int, fixed: dict[str, Any]) -> None:
    texts = ("a", 'b "usage":null,', ',"usage":null', "c")
    sent = counted(*texts)
    pool = Pool(Reply([sent[at : at + size] for at in range(0, len(sent), size)], kind=EVENTS))
    answer, shown = asked(pool, {**STREAM, **fixed}, Redis())
    assert answer.body == plain(*texts)
    assert pool.sent[0]["stream_options"] == {"include_usage": True}
    assert (tokens(shown, "prompt"), tokens(shown, "completion")) == (7, 4)


@pytest.mark.parametrize("options", [{"include_usage": False}, {"other": 1}, {}])
def test_other_options_of_a_stream_stay(options: dict[str, Any]) -> None:
    pool = Pool(Reply([counted("a")], kind=EVENTS))
    assert asked(pool, {**STREAM, "stream_options": options})[0].body == plain("a")
    assert pool.sent[0]["stream_options"] == {**options, "include_usage": True}


def test_who_asks_for_the_usage_gets_it() -> None:
    pool = Pool(Reply([counted("a")], kind=EVENTS))
    answer, shown = asked(pool, {**STREAM, "stream_options": {"include_usage": True}})
    assert (answer.body, tokens(shown, "completion")) == (counted("a"), 4)


@pytest.mark.parametrize("options", [7, "x", {"include_usage": "yes"}])
def test_wrong_options_are_left_to_the_upstream(options: Any) -> None:
    pool = Pool(Reply([b'{"error":{"message":"no"}}'], 400))
    assert asked(pool, {**STREAM, "stream_options": options})[0].status == 400
    assert [each["stream_options"] for each in pool.sent] == [options]


def test_an_upstream_that_refuses_the_option_is_asked_without_and_remembered() -> None:
    async def run() -> tuple[list[int], str]:
        refusal, answer = (
            Reply([b'{"error":{"message":"stream_options?"}}'], 400),
            Reply([plain("a", "b")], kind=EVENTS),
        )
        app, body = gateway(pool := Pool(refusal, answer)), json.dumps(STREAM).encode()
        answers = [await ask(app, "POST", "/v1/chat/completions", body) for _ in range(2)]
        assert ["stream_options" in each for each in pool.sent] == [True, False, False]
        assert [each.body for each in answers] == [plain("a", "b")] * 2
        return [each.status for each in answers], (await ask(app, "GET", "/metrics")).body.decode()

    statuses, shown = asyncio.run(run())
    assert statuses == [200, 200]
    # A guess, and labelled so: a token for each event, four bytes of the request for each of the prompt.
    assert tokens(shown, "completion_estimated") == 6
    assert tokens(shown, "prompt_estimated") > 0
    assert tokens(shown, "completion") == 0


def test_a_request_at_fault_is_not_asked_twice_of_who_takes_the_option() -> None:
    async def run() -> int:
        app = gateway(pool := Pool(Reply([counted("a")], kind=EVENTS), Reply([b'{"error":{"message":"no"}}'], 400)))
        for _ in range(3):
            await ask(app, "POST", "/v1/chat/completions", json.dumps(STREAM).encode())
        return len(pool.sent)

    assert asyncio.run(run()) == 3


def test_a_stream_that_breaks_or_is_left_counts_too() -> None:
    pool = Pool(Reply([piece("a") + piece("b"), aiohttp.ClientPayloadError()], kind=EVENTS))
    _, shown = asked(pool, STREAM)
    assert tokens(shown, "completion_estimated") == 2

    async def left() -> str:
        gone = asyncio.Event()
        app = gateway(pool := Pool(Reply([piece("a"), asyncio.Event()], kind=EVENTS)))
        task = asyncio.create_task(ask(app, "POST", "/v1/chat/completions", json.dumps(STREAM).encode(), gone=gone))
        while not pool.sent or pool.replies[0].content.position < 2:
            await asyncio.sleep(0)
        gone.set()
        await task
        return (await ask(app, "GET", "/metrics")).body.decode()

    assert tokens(asyncio.run(left()), "completion_estimated") == 1


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"choices":[{"delta":{"content":"\\"usage\\": null"}}]}\n\n',
        b'data: {"choices":[{"usage":null}],"x":"usage"}\n\n',
        b'data: {"usage": {"prompt_tokens": 1}, "choices": [{"delta": {}}]}\n\n',
        b'data: no json "usage"\n\n',
        b': "usage"\n\n',
        b'event: x\ndata: {"usage":null}\n\n',
    ],
)
def test_what_is_not_there_for_the_usages_sake_stays(raw: bytes) -> None:
    assert counting.hidden(raw) == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'data: {"usage": null, "a": 1}\r\n\r\n', b'data: {"a": 1}\r\n\r\n'.replace(b'{"', b'{ "')),
        (b'data: {"a":{"usage":null},"usage":null}\n\n', b'data: {"a":{"usage":null}}\n\n'),
        (b'data: {"a":1 , "usage" : null}\n\n', b'data: {"a":1 }\n\n'),
    ],
)
def test_null_is_taken_out_and_nothing_else(raw: bytes, shown: bytes) -> None:
    assert counting.hidden(raw) == shown


def first(*chunks: bytes) -> bytes:
    return asyncio.run(opening.first(Reply(list(chunks)).content))


@pytest.mark.parametrize(
    ("chunks", "read"),
    [
        ((b"data: 1\n\n", b"data: 2\n\n"), 1),
        ((b": working\n\n", b": wor", b"king\n\n", b"data: 1\n\n", b"data: 2\n\n"), 4),
        ((b": a\r\n\r\n", b"\r\n", b"event: x\n", b"data: 2\n\n"), 3),
        ((b'data: {"error"', b':{"message":"x"}}', b"\n\n", b"data: 2\n\n"), 3),
        ((b"{", b"}"), 1),
    ],
)
def test_comments_are_no_first_byte(chunks: tuple[bytes, ...], read: int) -> None:
    assert first(*chunks) == b"".join(chunks[:read])


def test_a_stream_of_comments_alone_tells_nothing() -> None:
    assert first(b": a\n\n", b": b") == b""


@pytest.mark.parametrize(
    ("beginning", "status"),
    [
        (b': a\n\ndata: {"error":{"message":"x","status":503}}\n\n', 503),
        (b'data: {"error": {"message": "x", "code": 429}}\n\n', 429),
        (b'data: {"error":{"message":"x","code":"busy","status":99}}\r\n\r\n', 502),
        (b'data: {"error":"x"}\n\n', 502),
        (b'data: {"choices":[]}\n\n', None),
        (b'data: {"error" no\n\n', None),
    ],
)
def test_an_error_as_the_first_event_has_a_status(beginning: bytes, status: int | None) -> None:
    found = opening.failure(beginning)
    assert (found and found[0]) == status


def test_a_stream_that_begins_with_an_error_is_asked_again_and_elsewhere() -> None:
    broken = Reply([b": keep-alive\n\n", b'data: {"error":{"message":"over","status":503}}\n\n'], kind=EVENTS)
    pool = Pool(broken, broken, broken, Reply([plain("a")], kind=EVENTS))
    answer, _ = asked(pool, {**STREAM, "model": "safe"})
    assert (answer.status, answer.body, pool.asked) == (200, plain("a"), ["double"] * 3 + ["spare"])
