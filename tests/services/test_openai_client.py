"""The official Python client of OpenAI, unchanged, against both services: answers, streams, and its typed exceptions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support import claude_proxy_process
from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import Proxy, messages_api
from tests.support.service import READY, Service, double, running, wait_until

KEYS = {name: secrets.token_urlsafe() for name in ("free", "narrow", "slow")}
OPTIONS = {"free": "", "narrow": "models=d/one", "slow": "rpm=1"}
MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
timeout = 1
breaker_failures = 1000
[model."d/*"]
upstream = "double"
retries = 0
[model."max/sonnet"]
upstream = "double"
name = "sonnet"
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "note",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"said": {"type": "string"}},
            "required": ["said"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, upstream: Service) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "models.toml").write_text(MODELS.format(port=upstream.port))
    lines = [f"{name}:{hashlib.sha256(key.encode()).hexdigest()} {OPTIONS[name]}\n" for name, key in KEYS.items()]
    (folder / "keys").write_text("".join(lines))
    env = {"LLM_CALL_MODELS": str(folder / "models.toml"), "LLM_CALL_KEYS_FILE": str(folder / "keys")}
    with running(["-m", "llm_call.api", "--port", "0"], READY, env) as service:
        yield service


@pytest.fixture
def client(api: Service) -> Iterator[OpenAI]:
    with connect(api.port) as client:
        yield client


def connect(port: int, key: str = "free", timeout: float = 20) -> OpenAI:
    address = f"http://127.0.0.1:{port}/v1"
    return OpenAI(base_url=address, api_key=KEYS.get(key, key), max_retries=0, timeout=timeout)


def wish(**how: Any) -> dict[str, Any]:
    """Return what tells the double to misbehave."""
    return {"x_double": how}


def test_a_plain_answer_and_its_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="d/one", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == "echo: hello there"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "one")
    assert answer.usage
    assert answer.usage.total_tokens == 5
    assert (raw.headers["x-llm-call-upstream"], raw.headers["x-llm-call-cache"]) == ("double", "off")
    assert float(raw.headers["x-llm-call-overhead-ms"]) >= 0
    assert raw.request_id
    assert raw.request_id == answer._request_id


def test_a_stream(client: OpenAI) -> None:
    with client.chat.completions.create(model="d/one", messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: hello there "
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(model="d/one", messages=HELLO, stream=True, stream_options=options) as stream:
        *_, last = stream
    assert last.choices == []
    assert last.usage
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 2)


def test_a_tool_call(client: OpenAI, upstream: Service) -> None:
    body = wish(tool=True)
    answer = client.chat.completions.create(model="d/one", messages=HELLO, tools=[TOOL], extra_body=body)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("note", {"said": "hello there"})
    assert upstream.get("/last")[1]["body"]["tools"] == [TOOL]
    # The client sends back what it got, and the tool's result.
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "noted"}
    conversation = [*HELLO, answer.choices[0].message.model_dump(exclude_none=True), result]
    client.chat.completions.create(model="d/one", messages=conversation)
    assert upstream.get("/last")[1]["body"]["messages"] == conversation


def test_a_streamed_tool_call(client: OpenAI) -> None:
    parameters: Any = {"model": "d/one", "messages": HELLO, "tools": [TOOL], "extra_body": wish(tool=True)}
    with client.chat.completions.stream(**parameters) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert (call.function.name, call.function.parsed_arguments) == ("note", {"said": "hello there"})


@pytest.mark.parametrize("model", ["d/one", "max/sonnet"])
def test_images_arrive_unchanged(client: OpenAI, upstream: Service, model: str) -> None:
    large = base64.b64encode(os.urandom(1_000_000)).decode()
    urls = [f"data:image/png;base64,{PIXEL}", f"data:image/jpeg;base64,{large}", "https://images.invalid/one.png"]
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "see"}, *parts]}]
    answer = client.chat.completions.create(model=model, messages=messages)
    assert (answer.choices[0].message.content or "").startswith("echo: see")
    assert upstream.get("/last")[1]["body"]["messages"] == messages


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(client: OpenAI, upstream: Service, encoding: Any) -> None:
    chosen = {"encoding_format": encoding} if encoding else {}
    answer = client.embeddings.create(model="d/small", input=["a", "bcd"], **chosen)
    assert [each.embedding for each in answer.data] == [[1.0], [3.0]]
    assert upstream.get("/last")[1]["body"]["encoding_format"] == (encoding or "base64")
    assert client.embeddings.create(model="d/small", input=[[1, 2, 3]]).data[0].embedding == [3.0]


def test_models(client: OpenAI, api: Service) -> None:
    assert [model.id for model in client.models.list()] == ["d/*", "max/sonnet"]
    model = client.models.retrieve("max/sonnet")
    assert (model.id, model.object, model.owned_by) == ("max/sonnet", "model", "double")
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        client.models.retrieve("max/sonet")
    with connect(api.port, "narrow") as narrow:
        # Not the wildcard that answers for it, but the very model that the key's line names.
        assert [model.id for model in narrow.models.list()] == ["d/one"]
        assert narrow.models.retrieve("d/one").id == "d/one"
        with pytest.raises(openai.NotFoundError):
            narrow.models.retrieve("d/two")


def test_fields_that_the_client_does_not_know_pass_through(client: OpenAI, upstream: Service) -> None:
    extra = {"vendor": {"deep": [1, None, 2.5]}, "top_k": 3}
    client.chat.completions.create(model="d/one", messages=HELLO, seed=2**53 - 1, extra_body=extra)
    body = upstream.get("/last")[1]["body"]
    assert body == {"model": "one", "messages": HELLO, "seed": 2**53 - 1, **extra}


def refused(client: OpenAI, kind: type[openai.APIStatusError], model: str = "d/one", **more: Any) -> Any:
    """Ask, and return the exception that comes, which has to be of that very kind, plain and for a stream."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=HELLO, **more)
    with pytest.raises(openai.APIStatusError) as streamed:
        client.chat.completions.create(model=model, messages=HELLO, stream=True, **more)
    assert type(caught.value) is type(streamed.value) is kind
    assert caught.value.request_id
    assert (caught.value.code, caught.value.message) == (streamed.value.code, streamed.value.message)
    return caught.value


def test_a_missing_and_a_wrong_key(api: Service) -> None:
    with connect(api.port, "wrong") as stranger:
        assert refused(stranger, openai.AuthenticationError).code == "invalid_api_key"
        silent = {"extra_headers": {"authorization": openai.Omit()}}
        error = refused(stranger, openai.AuthenticationError, **silent)
        assert "Authorization: Bearer KEY" in error.message
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_an_unknown_model_names_the_nearest_one(client: OpenAI) -> None:
    error = refused(client, openai.NotFoundError, "max/sonet")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert 'Perhaps you meant "max/sonnet"' in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
    ],
)
def test_wrong_types_name_the_field(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    error = refused(client, openai.BadRequestError, extra_body=fields)
    assert (error.code, error.param, error.type) == ("invalid_value", param, "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="d/small", input=[])
    assert caught.value.param == "input"


def test_what_the_upstream_calls_a_bad_request_is_one(client: OpenAI) -> None:
    error = refused(client, openai.BadRequestError, extra_body=wish(status=400, message="no such field"))
    assert (error.body["message"], error.code, error.type) == ("no such field", "wished", "wished_error")


def test_a_key_without_that_model(api: Service) -> None:
    with connect(api.port, "narrow") as narrow:
        assert narrow.chat.completions.create(model="d/one", messages=HELLO).choices
        assert refused(narrow, openai.PermissionDeniedError, "d/two").code == "model_not_allowed"


def test_the_upstreams_rate_limit(client: OpenAI) -> None:
    error = refused(client, openai.RateLimitError, extra_body=wish(status=429, retry_after=7, message="slow down"))
    assert (error.response.headers["retry-after"], error.body["message"]) == ("7", "slow down")


def test_the_rate_limit_of_a_key(api: Service) -> None:
    with connect(api.port, "slow") as slow:
        raw = slow.models.with_raw_response.list()
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        error = refused(slow, openai.RateLimitError)
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert 1 <= int(error.response.headers["retry-after"]) <= 60


def test_the_client_tries_again_after_what_it_is_told_to(api: Service, upstream: Service) -> None:
    """With the client's own retries: two refusals, then the answer."""
    with OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key=KEYS["free"], max_retries=2) as client:
        body = wish(status=429, retry_after=0.01, name=secrets.token_hex(4), first=2)
        before = upstream.get("/count")[1]["requests"]
        assert client.chat.completions.create(model="d/one", messages=HELLO, extra_body=body).choices
        assert upstream.get("/count")[1]["requests"] == before + 3


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"status": 500, "html": True}, 500, None),
        ({"malformed": True}, 502, "upstream_failed"),
        ({"delay": 3}, 504, "upstream_timeout"),
    ],
)
def test_failures_of_the_upstream(client: OpenAI, how: dict[str, Any], status: int, code: str | None) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="d/one", messages=HELLO, extra_body=wish(**how))
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_a_client_that_does_not_wait_leaves_nothing_running(api: Service) -> None:
    before = api.output.count('"client":"gone"')
    with connect(api.port, timeout=0.3) as hasty, pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(model="d/one", messages=HELLO, extra_body=wish(delay=0.9))
    wait_until(lambda: api.output.count('"client":"gone"') == before + 1, "the gateway to notice")


def test_a_stream_that_breaks_is_an_error_with_a_message(client: OpenAI) -> None:
    pieces = []
    with (
        pytest.raises(openai.APIError, match='The upstream "double" broke off its answer') as caught,
        client.chat.completions.create(
            model="d/one", messages=HELLO, stream=True, extra_body=wish(chunks=9, cut=2)
        ) as stream,
    ):
        for chunk in stream:
            pieces.append(chunk.choices[0].delta.content)
    assert pieces == ["echo: ", "hello "]
    assert caught.value.code == "upstream_failed"


def test_an_abandoned_stream_leaves_nothing_running(client: OpenAI, upstream: Service) -> None:
    before = upstream.get("/count")[1]["abandoned"]
    body = wish(chunks=10_000, gap=0.01)
    with client.chat.completions.create(model="d/one", messages=HELLO, stream=True, extra_body=body) as stream:
        assert next(iter(stream)).choices
    wait_until(lambda: upstream.get("/count")[1]["abandoned"] == before + 1, "the upstream to notice")
    assert upstream.get("/count")[1]["streams"] == 0


def test_the_asynchronous_client(api: Service, upstream: Service) -> None:
    before = upstream.get("/count")[1]["abandoned"]
    asyncio.run(_asynchronously(api.port))
    wait_until(lambda: upstream.get("/count")[1]["abandoned"] == before + 1, "the upstream to notice")


async def _asynchronously(port: int) -> None:
    address = f"http://127.0.0.1:{port}/v1"
    async with AsyncOpenAI(base_url=address, api_key=KEYS["free"], max_retries=0) as client:
        create = client.chat.completions.create
        answers = await asyncio.gather(*(create(model="d/one", messages=HELLO) for _ in range(20)))
        assert {answer.choices[0].message.content for answer in answers} == {"echo: hello there"}
        stream = await create(model="d/one", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "echo: hello there "
        assert [model.id async for model in client.models.list()] == ["d/*", "max/sonnet"]
        assert (await client.embeddings.create(model="d/small", input="ab")).data[0].embedding == [2.0]
        with pytest.raises(openai.NotFoundError):
            await create(model="none", messages=HELLO)
        broken = await create(model="d/one", messages=HELLO, stream=True, extra_body=wish(chunks=9, cut=1))
        with pytest.raises(openai.APIError, match="broke off"):
            _ = [chunk async for chunk in broken]
        endless = await create(model="d/one", messages=HELLO, stream=True, extra_body=wish(chunks=10_000, gap=0.01))
        assert (await anext(aiter(endless))).choices
        await endless.close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "keys").write_text(f"free:{hashlib.sha256(KEYS['free'].encode()).hexdigest()}\n")
    settings = {"CLAUDE_PROXY_CLI": str(install(folder / "claude")), "ANTHROPIC_API_KEY": secrets.token_hex()}
    settings["CLAUDE_PROXY_KEYS_FILE"] = str(folder / "keys")
    with claude_proxy_process.running(folder, settings) as proxy:
        yield proxy


def test_the_claude_proxy_answers(proxy: Proxy) -> None:
    with connect(proxy.port) as client:
        answer = client.chat.completions.create(model="opus", messages=HELLO)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("you said hello", "stop")
        assert answer.usage
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
        assert [model.id for model in client.models.list()] == ["opus", "sonnet", "haiku"]
        options: Any = {"include_usage": True}
        with client.chat.completions.create(
            model="max/opus", messages=HELLO, stream=True, stream_options=options
        ) as stream:
            chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "you said hello"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens > 0


def test_the_claude_proxys_errors_are_typed(proxy: Proxy) -> None:
    with connect(proxy.port, "wrong") as stranger:
        assert refused(stranger, openai.AuthenticationError, "opus").code == "invalid_api_key"
    with connect(proxy.port) as client:
        assert "sonnet" in refused(client, openai.NotFoundError, "sonet").message
        error = refused(client, openai.BadRequestError, "opus", tools=[TOOL])
        assert error.param == "tools"
        assert refused(client, openai.BadRequestError, "opus", extra_body={"messages": [7]}).param == "messages[0].role"
        with pytest.raises(openai.PermissionDeniedError, match="operator"):
            client.chat.completions.create(model="opus", messages=HELLO, extra_body={"claude_tools": ["Bash"]})
        crash: Any = [{"role": "user", "content": "crash"}]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="opus", messages=crash)
        assert (caught.value.status_code, caught.value.code) == (502, "claude_cli_crashed")
        restart: Any = [{"role": "user", "content": "restart"}]
        with (
            pytest.raises(openai.APIError, match="broke off in the middle"),
            client.chat.completions.create(model="opus", messages=restart, stream=True) as stream,
        ):
            list(stream)


def test_a_stream_abandoned_at_the_claude_proxy_leaves_no_cli(proxy: Proxy) -> None:
    hang: Any = [{"role": "user", "content": "hang"}]
    with (
        connect(proxy.port) as client,
        client.chat.completions.create(model="opus", messages=hang, stream=True) as stream,
    ):
        texts = (chunk.choices[0].delta.content for chunk in stream)
        assert next(text for text in texts if text) == "and then "
    wait_until(lambda: '"disconnected":true' in proxy.log.read_text(), "the proxy to notice")


@pytest.mark.cli
def test_the_claude_proxy_with_the_real_cli(tmp_path: Path) -> None:
    cli = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    assert cli, "no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH"
    with messages_api() as port:
        settings = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}"}
        settings["ANTHROPIC_API_KEY"] = secrets.token_hex()
        with claude_proxy_process.running(tmp_path, settings) as proxy, connect(proxy.port) as client:
            answer = client.chat.completions.create(model="sonnet", messages=HELLO)
            assert answer.choices[0].message.content == "echo: hello there"
            assert answer.model.startswith("claude-sonnet")
            with client.chat.completions.create(model="sonnet", messages=HELLO, stream=True) as stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert text == "echo: hello there"
            limited: Any = [{"role": "user", "content": "[[status=429 retry-after=7]]"}]
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(model="sonnet", messages=limited)
            assert 7 <= int(caught.value.response.headers["retry-after"]) <= 10
