"""The gateway in-process: requests, cache, routes; the upstream's side of the wire is a small double."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from llm_call.api import cache as answers
from llm_call.api import request, upstreams
from llm_call.api.app import assemble
from llm_call.api.cache import Cache
from llm_call.api.catalog import Catalog, Model, Upstream
from llm_call.api.settings import Settings
from llm_call.api.upstreams import Upstreams
from serving.auth import Keyring
from serving.errors import ApiError
from serving.health import Health
from tests.support.asgi import Answer, ask

DOUBLE = Upstream("double", "openai", "http://double/v1", 1.0, None, None)
KEYLESS = Upstream("keyless", "openai", "http://double/v1", 1.0, "NO_KEY", None)
CATALOG = Catalog(
    {"double": DOUBLE, "keyless": KEYLESS},
    {"d/*": Model("d/*", DOUBLE, "*"), "keyless": Model("keyless", KEYLESS, "keyless")},
)
BODY = {"model": "d/one", "messages": [{"role": "user", "content": "hi"}]}


class Content:
    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks

    async def iter_any(self):
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, asyncio.Event):
                await chunk.wait()
            else:
                yield chunk


class Reply:
    def __init__(self, chunks: list[Any], status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.status = status
        self.headers = {"content-type": kind, **headers}
        self.content = Content(chunks)
        self.released = False

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.content.iter_any()])

    def release(self) -> None:
        self.released = True


class Pool(Upstreams):
    """Answers with what it was given, and keeps what it was sent."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply
        self.sent: list[dict] = []

    async def post(self, upstream: Upstream, payload: bytes, ident: str) -> Any:
        if upstream.lacks_key:
            raise upstreams.not_configured(upstream)
        self.sent.append(json.loads(payload))
        return self.reply


class Store:
    """The part of a Redis client that the cache uses."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.down = False
        self.calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.down:
            msg = "refused"
            raise ConnectionError(msg)

    async def get(self, name: str) -> bytes | None:
        self._call()
        return self.kept.get(name)

    async def set(self, name: str, value: bytes, ex: int) -> None:
        self._call()
        assert ex == 60
        self.kept[name] = value

    async def ping(self) -> None:
        self._call()

    async def aclose(self) -> None:
        return


def gateway(pool: Upstreams, cache: Cache | None = None, limit: int = 4096) -> Any:
    chosen = Settings(CATALOG, Keyring(None, {}), "", None, 60, limit, False)
    health = Health()
    health.started()
    return assemble(chosen, health, pool, cache)


def post(pool: Pool, body: Any, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(ask(gateway(pool), "POST", "/v1/chat/completions", raw, headers))


def test_unknown_fields_pass_and_the_model_is_renamed() -> None:
    pool = Pool(Reply([b'{"ok":', b"1}"]))
    answer = post(pool, {**BODY, "vendor": {"x": [1.5, None]}})
    assert (answer.status, answer.json) == (200, {"ok": 1})
    assert pool.sent == [{**BODY, "model": "one", "vendor": {"x": [1.5, None]}}]
    assert answer.headers["x-llm-call-upstream"] == "double"
    assert answer.headers["x-llm-call-cache"] == "off"
    assert pool.reply.released


def test_a_stream_is_passed_on_chunk_by_chunk() -> None:
    pool = Pool(Reply([b"data: a", b"\n\ndata: b\n\n"], kind="text/event-stream"))
    answer = post(pool, {**BODY, "stream": True})
    assert answer.chunks == [b"data: a", b"\n\ndata: b\n\n", b""]
    assert answer.complete
    assert answer.headers["content-type"] == "text/event-stream"


def test_a_broken_stream_stays_unfinished() -> None:
    pool = Pool(Reply([b"data: a\n\n", aiohttp.ClientPayloadError("cut")], kind="text/event-stream"))
    answer = post(pool, {**BODY, "stream": True})
    assert answer.chunks == [b"data: a\n\n"]
    assert not answer.complete
    assert pool.reply.released


def test_a_client_that_leaves_ends_the_upstream_request() -> None:
    async def scenario() -> None:
        for stream in (True, False):
            pool = Pool(Reply([b"x", asyncio.Event()]))
            gone = asyncio.Event()
            body = json.dumps({**BODY, "stream": stream}).encode()
            asking = asyncio.create_task(ask(gateway(pool), "POST", "/v1/chat/completions", body, gone=gone))
            while not pool.sent:
                await asyncio.sleep(0)
            gone.set()
            await asyncio.wait_for(asking, 2)
            assert pool.reply.released

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"\xff\xfe", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b"[]", 400, "invalid_json", None),
        ({}, 400, "invalid_value", "model"),
        ({**BODY, "model": 3}, 400, "invalid_value", "model"),
        ({"model": "d/one"}, 400, "invalid_value", "messages"),
        ({**BODY, "messages": []}, 400, "invalid_value", "messages"),
        ({**BODY, "stream": "yes"}, 400, "invalid_value", "stream"),
        ({**BODY, "model": "keylesss"}, 404, "model_not_found", "model"),
        ({**BODY, "model": "keyless"}, 503, "upstream_not_configured", None),
        (b'{"model":"d/one","messages":[1],"x":' + b"[" * 300 + b"]" * 300 + b"}", 400, "invalid_json", None),
        ({**BODY, "x": "y" * 5000}, 413, "request_too_large", None),
    ],
)
def test_bad_requests_say_what_is_wrong(body: Any, status: int, code: str, param: str | None) -> None:
    pool = Pool(Reply([b"{}"]))
    answer = post(pool, body)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, param)
    assert not pool.sent


def test_an_unknown_model_names_the_nearest() -> None:
    assert '"keyless"' in post(Pool(Reply([])), {**BODY, "model": "keylesss"}).json["error"]["message"]


def test_a_body_in_pieces_is_limited_too() -> None:
    async def scenario() -> None:
        pieces = [{"type": "http.request", "body": b"x" * 60, "more_body": True} for _ in range(3)]

        async def receive() -> dict:
            return pieces.pop()

        with pytest.raises(ApiError, match="exceeds 100 bytes"):
            await request.read({"headers": []}, receive, 100)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, b'{"error":{"message":"slow","type":"t","code":"c","param":null}}', (429, "slow", "t", "c")),
        (400, b'{"error":"flat"}', (400, "flat", "invalid_request_error", None)),
        (400, b"plain text", (400, "plain text", "invalid_request_error", None)),
        (502, b"<html>", (502, 'The upstream "double" answered with status 502.', "server_error", None)),
        (500, b"[1]", (500, 'The upstream "double" answered with status 500.', "server_error", None)),
        (302, b"", (502, 'The upstream "double" answered with status 302.', "server_error", "upstream_failed")),
    ],
)
def test_an_upstreams_error_takes_our_shape(status: int, body: bytes, expected: tuple) -> None:
    answer = post(Pool(Reply([body], status, **{"retry-after": "9"})), BODY)
    error = answer.json["error"]
    assert (answer.status, error["message"], error["type"], error["code"]) == expected
    assert answer.headers.get("retry-after") == (None if status == 302 else "9")


def test_the_upstreams_complaint_about_our_key_is_not_passed_on() -> None:
    answer = post(Pool(Reply([b'{"error":{"message":"bad key sk-12"}}'], 401)), BODY)
    assert (answer.status, answer.json["error"]["code"]) == (401, "upstream_refused_key")
    assert b"sk-12" not in answer.body


@pytest.mark.parametrize(
    ("fields", "eligible"),
    [({"temperature": 0}, True), ({"temperature": 0.0}, True), ({"seed": 0}, True), ({"seed": None}, False),
     ({}, False), ({"temperature": 0.1}, False), ({"temperature": False}, False)],
)  # fmt: skip
def test_only_deterministic_requests_are_kept(fields: dict, eligible: bool) -> None:
    assert answers.deterministic(fields) is eligible


def test_the_key_does_not_depend_on_order_or_stream() -> None:
    key = answers.key({"a": 1, "b": [1, 2], "stream": False}, "u")
    assert key == answers.key({"b": [1, 2], "a": 1}, "u")
    others = [answers.key({"a": 1, "b": [2, 1]}, "u"), answers.key({"a": 1, "b": [1, 2]}, "v")]
    assert key not in others


def test_the_second_answer_comes_from_the_cache() -> None:
    async def scenario() -> None:
        pool, store = Pool(Reply([b'{"n":1}'])), Store()
        app = gateway(pool, Cache(store, 60))  # type: ignore[arg-type]

        async def state(body: dict, **headers: str) -> str:
            answer = await ask(app, "POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            assert answer.json == {"n": 1}
            return answer.headers["x-llm-call-cache"]

        fixed = {**BODY, "temperature": 0}
        assert [await state(fixed), await state(fixed)] == ["miss", "hit"]
        assert len(pool.sent) == 1
        assert await state(fixed, **{"cache-control": "no-store"}) == "off"
        assert await state(BODY) == "off"
        store.kept.clear()
        pool.reply = Reply([b'{"n":1}'], kind="text/plain")
        assert [await state(fixed), await state(fixed)] == ["miss", "miss"]

    asyncio.run(scenario())


def test_errors_and_big_answers_are_not_kept() -> None:
    async def scenario() -> None:
        store = Store()
        for reply in (Reply([b"{}"], 500), Reply([b'"' + b"x" * answers.ENTRY_BYTES + b'"'])):
            app = gateway(Pool(reply), Cache(store, 60))  # type: ignore[arg-type]
            await ask(app, "POST", "/v1/chat/completions", json.dumps({**BODY, "seed": 1}).encode())
        assert not store.kept

    asyncio.run(scenario())


def test_a_dead_cache_is_left_alone_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BACKOFF_SECONDS", (0.01,))

    async def scenario() -> None:
        store = Store()
        cache = Cache(store, 60)  # type: ignore[arg-type]
        store.down = True
        app = gateway(Pool(Reply([b"{}"])), cache)
        body = json.dumps({**BODY, "seed": 1}).encode()
        first = await ask(app, "POST", "/v1/chat/completions", body)
        assert (first.status, first.headers["x-llm-call-cache"]) == (200, "off")
        calls = store.calls
        await ask(app, "POST", "/v1/chat/completions", body)
        assert store.calls == calls
        assert not cache.available
        report = (await ask(app, "GET", "/health/ready")).json
        assert (report["status"], report["dependencies"]["redis"]["reason"]) == ("degraded", "refused")
        store.down = False
        async with asyncio.timeout(2):
            while not cache.available:
                await asyncio.sleep(0.005)
        states = [(await ask(app, "POST", "/v1/chat/completions", body)).headers["x-llm-call-cache"] for _ in "ab"]
        assert states == ["miss", "hit"]
        await cache.close()

    asyncio.run(scenario())


def test_models_are_listed_and_found() -> None:
    app = gateway(Pool(Reply([])))
    listed = asyncio.run(ask(app, "GET", "/v1/models")).json
    assert (listed["object"], [each["id"] for each in listed["data"]]) == ("list", ["d/*", "keyless"])
    assert asyncio.run(ask(app, "GET", "/v1/models/keyless")).json["owned_by"] == "keyless"
    assert asyncio.run(ask(app, "GET", "/v1/models/none")).json["error"]["code"] == "model_not_found"


def test_readiness_lists_what_lacks_a_key() -> None:
    report = asyncio.run(ask(gateway(Pool(Reply([]))), "GET", "/health")).json
    assert report["status"] == "ok"
    assert report["dependencies"]["keyless"]["reason"] == "NO_KEY is not set"
    assert report["dependencies"]["redis"]["state"] == "not configured"
