"""The gateway in-process: requests, cache, routes; the upstream's side of the wire is a small double."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from llm_call.api import attempts, request, upstreams
from llm_call.api import store as stores
from llm_call.api.app import assemble
from llm_call.api.call import Call
from llm_call.api.catalog import Catalog, Route, Target, Upstream
from llm_call.api.local.recipe import Recipe
from llm_call.api.settings import Settings
from llm_call.api.store import Store
from llm_call.api.upstreams import Upstreams
from serving import body
from serving.auth import Keyring
from serving.errors import ApiError
from serving.health import Health
from tests.support.asgi import Answer, ask

DOUBLE = Upstream("double", "openai", "http://double/v1", 1.0, None, None)
SPARE = Upstream("spare", "openai", "http://spare/v1", 1.0, None, None)
PROXY = Upstream("proxy", "claude-proxy", "http://proxy/v1", 1.0, None, None, breaker_failures=2)
VECTORS = Upstream("local/v", "llama", "", 1.0, None, None, recipe=Recipe("v.gguf", embeddings=True))
LLAMA3 = Upstream("local/l", "llama", "", 1.0, None, None, recipe=Recipe("l.gguf", template="llama3"))
CHATML = Upstream("local/c", "llama", "", 1.0, None, None, recipe=Recipe("c.gguf", template="chatml"))
KEYLESS = Upstream("keyless", "openai", "http://double/v1", 1.0, "NO_KEY", None)


def target(model: str, upstream: Upstream, name: str, retries: int = 0) -> Target:
    return Target(model, upstream, name, upstream.timeout, retries)


VECTOR = target("local/v", VECTORS, "local/v")
WILD, KEPT, OTHER = target("d/*", DOUBLE, "*"), target("safe", DOUBLE, "one", 2), target("spare", SPARE, "two")
CATALOG = Catalog(
    {"double": DOUBLE, "spare": SPARE, "keyless": KEYLESS, "proxy": PROXY},
    {
        "d/*": Route("d/*", (WILD,)),
        "keyless": Route("keyless", (target("keyless", KEYLESS, "keyless"),)),
        "safe": Route("safe", (KEPT, OTHER)),
        "cli": Route("cli", (target("cli", PROXY, "opus", 2),)),
        "local/v": Route("local/v", (VECTOR, OTHER)),
        "backed": Route("backed", (WILD, VECTOR)),
        "mixed": Route("mixed", (VECTOR, OTHER), learned=True),
        "any": Route("any", (target("keyless", KEYLESS, "k"), OTHER), learned=True),
    },
)
BODY = {"model": "d/one", "messages": [{"role": "user", "content": "hi"}]}


class Content:
    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks
        self.position = 0

    async def readany(self) -> bytes:
        if self.position == len(self.chunks):
            return b""
        chunk = self.chunks[self.position]
        self.position += 1
        if isinstance(chunk, Exception):
            raise chunk
        if isinstance(chunk, asyncio.Event):
            await chunk.wait()
            return await self.readany()
        return chunk


class Reply:
    def __init__(self, chunks: list[Any], status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.status = status
        self.headers = {"content-type": kind, **headers}
        self.content = Content(chunks)
        self.released = False

    async def read(self) -> bytes:
        parts = []
        while part := await self.content.readany():
            parts.append(part)
        return b"".join(parts)

    def release(self) -> None:
        self.released = True


class Pool(Upstreams):
    """Answers with what it was given, the last of it again and again, and keeps what it was sent."""

    def __init__(self, *replies: Reply | Exception) -> None:
        super().__init__()
        self.replies = list(replies)
        self.sent: list[dict] = []
        self.asked: list[str] = []

    async def post(self, target: Target, call: Call) -> Any:
        await asyncio.sleep(0)
        self.sent.append(json.loads(call.sent(target)))
        self.asked.append(target.upstream.name)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        reply.content.position = 0
        return reply


class Redis:
    """The part of a Redis client that the cache uses."""

    def __init__(self) -> None:
        self.connection_pool = self
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

    async def mget(self, names: list[str]) -> list[bytes | None]:
        self._call()
        return [self.kept.get(name) for name in names]

    async def set(self, name: str, value: bytes, ex: int) -> None:
        self._call()
        assert ex == 60
        self.kept[name] = value

    async def disconnect(self, *, inuse_connections: bool) -> None:
        assert not inuse_connections

    async def ping(self) -> None:
        self._call()

    async def aclose(self) -> None:
        return


def gateway(pool: Upstreams, redis: Redis | None = None, **more: Any) -> Any:
    chosen = Settings(CATALOG, Keyring(None, {}), cache_ttl=60, cache_entry=10_000, body_limit=4096, **more)
    health = Health()
    health.started()
    return assemble(chosen, health, pool, Store(redis))  # type: ignore[arg-type]


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


def test_a_stream_is_passed_on_chunk_by_chunk() -> None:
    pool = Pool(Reply([b"data: a", b"\n\ndata: b\n\n"], kind="text/event-stream"))
    answer = post(pool, {**BODY, "stream": True})
    assert answer.chunks == [b"data: a\n\ndata: b\n\n", b""]
    assert answer.complete
    assert answer.headers["content-type"] == "text/event-stream"


def test_a_broken_stream_ends_with_an_event_that_says_so() -> None:
    chunks = [b"data: a\n\n", b'data: {"half', aiohttp.ClientPayloadError("cut")]
    pool = Pool(Reply(chunks, kind="text/event-stream"))
    answer = post(pool, {**BODY, "stream": True})
    first, last = answer.chunks
    assert first == b"data: a\n\n"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_failed"
    assert b"[DONE]" not in answer.body
    assert pool.replies[0].released


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
            assert pool.replies[0].released

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
            await body.read({"headers": []}, receive, 100)

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
    assert request.parse(json.dumps({**BODY, **fields}).encode(), "chat/completions").deterministic is eligible


FIXED = {**BODY, "temperature": 0}
WHOLE = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "one",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "tool_calls": [{"id": "t"}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


async def chat(app: Any, body: dict, **headers: str) -> Answer:
    return await ask(app, "POST", "/v1/chat/completions", json.dumps(body).encode(), headers)


def test_the_second_answer_comes_from_the_cache() -> None:
    async def scenario() -> None:
        pool, redis = Pool(Reply([b'{"n":1}'])), Redis()
        app = gateway(pool, redis)

        async def state(body: dict, **headers: str) -> str:
            answer = await chat(app, body, **headers)
            assert (answer.json, answer.headers["x-llm-call-upstream"]) == ({"n": 1}, "double")
            return answer.headers["x-llm-call-cache"]

        assert [await state(FIXED), await state(FIXED)] == ["miss", "hit"]
        assert await state({"temperature": 0, **BODY}) == "hit"
        assert len(pool.sent) == 1
        assert await state(FIXED, **{"cache-control": "no-store"}) == "off"
        assert await state(FIXED, **{"cache-control": "no-cache"}) == "miss"
        assert await state(BODY) == "off"
        assert await state({**FIXED, "messages": [{"role": "user", "content": "other"}]}) == "miss"
        assert len(pool.sent) == 5

    asyncio.run(scenario())


def test_what_continues_a_session_is_never_kept() -> None:
    async def scenario() -> None:
        pool, redis = Pool(Reply([b'{"n":1}'])), Redis()
        app = gateway(pool, redis)
        answers = [await chat(app, {**FIXED, "session_id": "s"}) for _ in range(2)]
        assert [each.headers["x-llm-call-cache"] for each in answers] == ["off", "off"]
        assert (len(pool.sent), redis.kept) == (2, {})

    asyncio.run(scenario())


def test_a_kept_answer_serves_a_stream_too() -> None:
    async def scenario() -> None:
        pool = Pool(Reply([json.dumps(WHOLE).encode()]))
        app = gateway(pool, Redis())
        await chat(app, FIXED)
        answer = await chat(app, {**FIXED, "stream": True, "stream_options": {"include_usage": True}})
        assert (answer.headers["x-llm-call-cache"], answer.headers["content-type"]) == ("hit", "text/event-stream")
        frames = answer.body.decode().removesuffix("data: [DONE]\n\n").removesuffix("\n\n").split("\n\n")
        first, last, usage = (json.loads(frame.removeprefix("data: ")) for frame in frames)
        assert first["choices"][0]["delta"]["content"] == "hello"
        assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, "id": "t"}]
        assert (last["choices"][0]["finish_reason"], last["object"]) == ("stop", "chat.completion.chunk")
        assert (usage["usage"], usage["choices"]) == (WHOLE["usage"], [])
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert len(pool.sent) == 1

    asyncio.run(scenario())


def test_a_stream_is_kept_as_it_was_and_only_whole() -> None:
    async def scenario() -> None:
        whole = Reply([b"data: 1\n\n", b"data: [DONE]\n\n"], kind="text/event-stream")
        pool = Pool(Reply([b"data: 1\n\n"], kind="text/event-stream"), whole)
        app = gateway(pool, Redis())
        answers = [await chat(app, {**FIXED, "stream": True}) for _ in range(3)]
        assert [each.headers["x-llm-call-cache"] for each in answers] == ["miss", "miss", "hit"]
        assert answers[1].body == answers[2].body == b"data: 1\n\ndata: [DONE]\n\n"
        plain = await chat(app, FIXED)
        assert plain.status == 502

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_identical_requests_at_the_same_time_are_one(stream: bool) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        chunks = [b"data: 1\n\n", go, b"data: [DONE]\n\n"] if stream else [go, b'{"n":1}']
        pool = Pool(Reply(chunks, kind="text/event-stream" if stream else "application/json"))
        app = gateway(pool, Redis())
        asking = [asyncio.create_task(chat(app, {**FIXED, "stream": stream})) for _ in range(5)]
        while not pool.sent:
            await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(*asking)
        assert len(pool.sent) == 1
        assert sorted(each.headers["x-llm-call-cache"] for each in answers) == ["hit"] * 4 + ["miss"]
        assert len({each.body for each in answers}) == 1

    asyncio.run(scenario())


def test_the_first_of_them_may_leave_without_harm_to_the_others() -> None:
    async def scenario() -> None:
        go, gone = asyncio.Event(), asyncio.Event()
        pool = Pool(Reply([go, b'{"n":1}']))
        app = gateway(pool, Redis())
        body = json.dumps(FIXED).encode()
        first = asyncio.create_task(ask(app, "POST", "/v1/chat/completions", body, gone=gone))
        second = asyncio.create_task(chat(app, FIXED))
        while not pool.sent:
            await asyncio.sleep(0)
        gone.set()
        assert (await first).status == 0
        go.set()
        assert (await second).json == {"n": 1}
        assert len(pool.sent) == 1

    asyncio.run(scenario())


def test_when_all_of_them_leave_the_upstream_request_ends() -> None:
    async def scenario() -> None:
        gone = asyncio.Event()
        pool = Pool(Reply([asyncio.Event()]))
        app = gateway(pool, Redis())
        body = json.dumps(FIXED).encode()
        asking = [asyncio.create_task(ask(app, "POST", "/v1/chat/completions", body, gone=gone)) for _ in range(2)]
        while not pool.sent:
            await asyncio.sleep(0)
        gone.set()
        await asyncio.wait_for(asyncio.gather(*asking), 2)
        async with asyncio.timeout(2):
            while not pool.replies[0].released:
                await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_shared_stream_does_not_run_away_from_its_slowest_listener() -> None:
    """And once it is larger than its window nobody joins it any more."""

    async def scenario() -> None:
        chunk = b"data: " + b"x" * 40_000 + b"\n\n"
        pool = Pool(Reply([chunk] * 20 + [b"data: [DONE]\n\n"], kind="text/event-stream"))
        app = gateway(pool, Redis())
        reading = asyncio.Event()
        body = json.dumps({**FIXED, "stream": True}).encode()
        slow = asyncio.create_task(ask(app, "POST", "/v1/chat/completions", body, reading=reading))
        while not pool.sent or pool.replies[0].content.position < 4:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert pool.replies[0].content.position < 8
        second = Reply([b"data: 2\n\n", b"data: [DONE]\n\n"], kind="text/event-stream")
        first, pool.replies[0] = pool.replies[0], second
        assert (await chat(app, {**FIXED, "stream": True})).body.startswith(b"data: 2")
        reading.set()
        assert (await slow).body == chunk * 20 + b"data: [DONE]\n\n"
        assert first.content.position == 21

    asyncio.run(scenario())


def test_the_first_byte_counts_for_what_may_be_kept_too() -> None:
    async def scenario() -> str:
        app = gateway(Pool(Reply([b"data: [DONE]\n\n"], kind="text/event-stream")), Redis())
        for _ in range(2):
            await chat(app, {**FIXED, "stream": True})
        return (await ask(app, "GET", "/metrics")).body.decode()

    assert 'llm_call_first_byte_seconds_count{model="d/*",upstream="double"} 1.0' in asyncio.run(scenario())


def test_odd_statuses_and_headers_of_an_upstream_are_answers_too() -> None:
    assert post(Pool(Reply([b"{}"], 700)), BODY).status == 502
    answer = post(Pool(Reply([b"{}"], 429, **{"retry-after": "\u2603"})), BODY)
    assert (answer.status, "retry-after" in answer.headers) == (429, False)


def test_errors_and_big_answers_are_not_kept() -> None:
    async def scenario() -> None:
        redis = Redis()
        for reply in (Reply([b"{}"], 500), Reply([b'{"x":"' + b"x" * 10_000 + b'"}'])):
            await chat(gateway(Pool(reply), redis), {**BODY, "seed": 1})
        assert not redis.kept

    asyncio.run(scenario())


def test_embeddings_are_forwarded_and_kept() -> None:
    async def scenario() -> None:
        pool = Pool(Reply([b'{"data":[1]}']))
        app = gateway(pool, Redis())
        body = json.dumps({"model": "d/e", "input": ["a"]}).encode()
        answers = [await ask(app, "POST", "/v1/embeddings", body) for _ in "ab"]
        assert [each.headers["x-llm-call-cache"] for each in answers] == ["miss", "hit"]
        assert pool.sent == [{"model": "e", "input": ["a"]}]
        bad = await ask(app, "POST", "/v1/embeddings", b'{"model":"d/e","input":[]}')
        assert (bad.status, bad.json["error"]["param"]) == (400, "input")

    asyncio.run(scenario())


def test_a_dead_cache_is_left_alone_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BACKOFF_SECONDS", (0.01,))

    async def scenario() -> None:
        redis = Redis()
        redis.down = True
        app = gateway(Pool(Reply([b"{}"])), redis)
        first = await chat(app, FIXED)
        assert (first.status, first.headers["x-llm-call-cache"]) == (200, "off")
        calls = redis.calls
        await chat(app, FIXED)
        assert redis.calls == calls
        report = (await ask(app, "GET", "/health/ready")).json
        assert (report["status"], report["dependencies"]["redis"]["reason"]) == ("degraded", "refused")
        redis.down = False
        async with asyncio.timeout(2):
            while (await chat(app, FIXED)).headers["x-llm-call-cache"] == "off":
                await asyncio.sleep(0.005)
        assert (await chat(app, FIXED)).headers["x-llm-call-cache"] == "hit"

    asyncio.run(scenario())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_SECONDS", 0.001)


OK = Reply([b"{}"])
RESET = aiohttp.ServerDisconnectedError()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("replies", "asked", "status"),
    [
        ((Reply([b"{}"], 503), OK), ["double"] * 2, 200),
        ((Reply([b"{}"], 429), RESET, OK), ["double"] * 3, 200),
        ((RESET, RESET, RESET, OK), ["double"] * 3 + ["spare"], 200),
        ((Reply([b"not json"]), OK), ["double"] * 2, 200),
        ((Reply([b"<html>"], kind="text/html"), OK), ["double"] * 2, 200),
        ((Reply([b"{}"], 429, **{"retry-after": "60"}), OK), ["double", "spare"], 200),
        ((Reply([b"{}"], 503, **{"x-should-retry": "false"}), OK), ["double", "spare"], 200),
        ((TimeoutError(), OK), ["double", "spare"], 200),
        ((Reply([b"{}"], 401), OK), ["double", "spare"], 200),
        ((Reply([b"{}"], 400), OK), ["double"], 400),
        ((Reply([b"{}"], 500),), ["double"] * 3 + ["spare"], 500),
    ],
)
def test_what_is_tried_again_and_where(replies: tuple, asked: list[str], status: int) -> None:
    pool = Pool(*replies)
    answer = asyncio.run(chat(gateway(pool), {**BODY, "model": "safe"}))
    assert (pool.asked, answer.status) == (asked, status)
    assert answer.headers["x-llm-call-upstream"] == asked[-1]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("replies", "asked", "status"),
    [
        ((RESET, OK), 1, 502),
        ((TimeoutError(), OK), 1, 504),
        ((aiohttp.ConnectionTimeoutError(), OK), 2, 200),
        ((Reply([b"{}"], 429), OK), 2, 200),
        ((Reply([b"{}"], 504, **{"x-should-retry": "false"}), OK), 1, 504),
        ((Reply([b'{"error":{"message":"no such tool"}}'], 403), OK), 1, 403),
    ],
)
def test_what_a_cli_may_have_begun_is_not_begun_again(replies: tuple, asked: int, status: int) -> None:
    pool = Pool(*replies)
    answer = asyncio.run(chat(gateway(pool), {**BODY, "model": "cli"}))
    assert (len(pool.asked), answer.status) == (asked, status)
    if status == 403:
        assert answer.json["error"]["message"] == "no such tool"


@pytest.mark.usefixtures("hurried")
def test_a_clients_own_crashes_shut_nobody_out_of_the_proxy() -> None:
    async def scenario() -> None:
        pool = Pool(Reply([b"{}"], 502, **{"x-should-retry": "false"}))
        app = gateway(pool)
        assert [(await chat(app, {**BODY, "model": "cli"})).status for _ in range(3)] == [502] * 3
        assert len(pool.asked) == 3

    asyncio.run(scenario())


@pytest.mark.usefixtures("hurried")
def test_a_stream_is_tried_again_before_its_first_byte_only() -> None:
    cut = aiohttp.ClientPayloadError("cut")
    for chunks, asked in (([cut], 2), ([], 2), ([b"data: 1\n\n", cut], 1)):
        pool = Pool(Reply(chunks, kind="text/event-stream"), Reply([b"data: 2\n\n"], kind="text/event-stream"))
        answer = asyncio.run(chat(gateway(pool), {**BODY, "model": "safe", "stream": True}))
        assert (len(pool.asked), answer.status) == (asked, 200)
        assert answer.chunks[0] == (b"data: 2\n\n" if asked == 2 else b"data: 1\n\n")


@pytest.mark.usefixtures("hurried")
def test_an_upstream_that_keeps_failing_is_left_alone() -> None:
    async def scenario() -> None:
        pool = Pool(RESET)
        app = gateway(pool)
        answers = [await chat(app, BODY) for _ in range(7)]
        assert [each.status for each in answers] == [502] * 5 + [503] * 2
        assert answers[-1].json["error"]["code"] == "upstream_circuit_open"
        assert int(answers[-1].headers["retry-after"]) in range(8, 11)
        assert len(pool.asked) == 5
        shown = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'llm_call_breaker_state{upstream="double"} 2.0' in shown
        assert 'llm_call_attempts_total{outcome="failed",upstream="double"} 5.0' in shown

    asyncio.run(scenario())


@pytest.mark.usefixtures("hurried")
def test_one_broken_model_shuts_out_no_other_of_its_upstream() -> None:
    async def scenario() -> None:
        pool = Pool(Reply([b'{"error":{"message":"model name=bad failed to load"}}'], 500))
        app = gateway(pool)
        bad = {**BODY, "model": "d/bad"}
        assert [(await chat(app, bad)).status for _ in range(7)] == [500] * 5 + [503] * 2
        assert (await chat(app, bad)).json["error"]["code"] == "upstream_circuit_open"
        assert 'llm_call_breaker_state{upstream="double"} 2.0' in (await ask(app, "GET", "/metrics")).body.decode()
        pool.replies = [OK]
        assert (await chat(app, BODY)).status == 200

    asyncio.run(scenario())


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("model name=notgguf failed to load", 1),
        ("unable to load model: /x/y", 1),
        ("error loading model /x/y", 1),
        ("model requires more system memory (9 GiB) than is available (1 GiB)", 1),
        ("the server is overloaded", 3),
    ],
)
def test_a_model_that_cannot_be_loaded_is_asked_once(said: str, asked: int) -> None:
    answer = json.dumps({"error": {"message": said}}).encode()
    pool = Pool(*[Reply([answer], 500)] * asked, OK)
    assert asyncio.run(chat(gateway(pool), {**BODY, "model": "safe"})).status == 200
    assert pool.asked == ["double"] * asked + ["spare"]


def test_a_model_that_embeds_is_asked_for_nothing_else() -> None:
    pool = Pool(OK)
    answer = asyncio.run(chat(gateway(pool), {**BODY, "model": "local/v"}))
    error = answer.json["error"]
    assert (answer.status, error["param"], error["code"]) == (400, "model", "model_not_for_chat")
    assert "/v1/embeddings only" in error["message"]
    assert pool.asked == []
    body = json.dumps({"model": "local/v", "input": "x"}).encode()
    assert asyncio.run(ask(gateway(pool), "POST", "/v1/embeddings", body)).status == 200
    assert pool.asked == ["local/v"]


@pytest.mark.parametrize(
    ("upstream", "more", "param"),
    [
        (LLAMA3, {"tools": [{"type": "function"}]}, "tools"),
        (LLAMA3, {"tool_choice": "required"}, "tool_choice"),
        (LLAMA3, {"tools": [], "tool_choice": "auto"}, None),
        (CHATML, {"tools": [{"type": "function"}]}, None),
        (DOUBLE, {"tools": [{"type": "function"}]}, None),
    ],
)
def test_tools_are_for_templates_that_have_them(upstream: Upstream, more: dict, param: str | None) -> None:
    body = json.dumps({**BODY, "model": "local/l", **more}).encode()
    error = upstreams.unfit(target("local/l", upstream, "local/l"), request.parse(body, "chat/completions"))
    assert (error.param if error else None) == param
    assert not error or (error.status, error.code) == (400, "model_without_tools")


def test_among_others_a_model_that_embeds_is_passed_over() -> None:
    pool = Pool(OK)
    assert asyncio.run(chat(gateway(pool), {**BODY, "model": "mixed"})).status == 200
    assert pool.asked == ["spare"]
    pool = Pool(Reply([b"{}"], 404))
    assert asyncio.run(chat(gateway(pool), {**BODY, "model": "backed"})).status == 404
    assert pool.asked == ["double"]


def test_candidates_without_a_key_are_passed_over() -> None:
    pool = Pool(OK)
    assert asyncio.run(chat(gateway(pool), {**BODY, "model": "any"})).status == 200
    assert pool.asked == ["spare"]


def test_metrics_tell_requests_tokens_and_cache() -> None:
    async def scenario() -> str:
        app = gateway(Pool(Reply([json.dumps(WHOLE).encode()])), Redis())
        for _ in range(2):
            await chat(app, FIXED)
        return (await ask(app, "GET", "/metrics")).body.decode()

    shown = asyncio.run(scenario())
    for line in (
        'llm_call_requests_total{model="d/*",status="200",upstream="double"} 2.0',
        'llm_call_tokens_total{kind="prompt",model="d/*",upstream="double"} 3.0',
        'llm_call_cache_total{result="hit"} 1.0',
        'llm_call_cache_total{result="miss"} 1.0',
        "llm_call_overhead_seconds_count 2.0",
    ):
        assert line in shown


def test_models_are_listed_and_found() -> None:
    app = gateway(Pool(Reply([])))
    listed = asyncio.run(ask(app, "GET", "/v1/models")).json
    assert (listed["object"], [each["id"] for each in listed["data"]]) == (
        "list",
        ["d/*", "keyless", "safe", "cli", "local/v", "backed", "mixed", "any"],
    )
    assert asyncio.run(ask(app, "GET", "/v1/models/keyless")).json["owned_by"] == "keyless"
    assert asyncio.run(ask(app, "GET", "/v1/models/none")).json["error"]["code"] == "model_not_found"


def test_readiness_lists_what_lacks_a_key() -> None:
    report = asyncio.run(ask(gateway(Pool(Reply([]))), "GET", "/health")).json
    assert report["status"] == "degraded"  # nobody answers for the proxy
    assert report["dependencies"]["keyless"]["reason"] == "NO_KEY is not set"
    assert report["dependencies"]["redis"]["state"] == "not configured"
