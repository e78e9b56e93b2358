from __future__ import annotations

import base64
from typing import Any

import pytest

from claude_proxy.conversation import Turn, translate
from serving.errors import ApiError


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "opus", "messages": list(messages) or [user("hi")], **fields}


def fault(request: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        translate(request)
    return caught.value


def test_system_history_and_prompt_come_apart() -> None:
    ask = translate(
        body(
            {"role": "system", "content": "one"},
            user("first"),
            {"role": "assistant", "content": "answer"},
            {"role": "developer", "content": [block("two")]},
            user([block("second")]),
        )
    )
    assert ask.system == "one\n\ntwo"
    assert ask.history == [Turn("user", [block("first")]), Turn("assistant", [block("answer")])]
    assert ask.prompt == [block("second")]


def test_neighbours_of_the_same_role_become_one_turn_and_empty_ones_vanish() -> None:
    ask = translate(body(user("a"), {"role": "assistant", "content": ""}, user("b"), user("c")))
    assert ask.history == []
    assert ask.prompt == [block("a"), block("b"), block("c")]


@pytest.mark.parametrize(
    ("given", "resolved"),
    [("max/opus", "opus"), ("sonnet", "sonnet"), ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5-20250929")],
)
def test_models(given: str, resolved: str) -> None:
    assert translate(body(model=given)).model == resolved


@pytest.mark.parametrize("name", ["gpt-4", "--help", "max/", "opus --help", "claude-x\n", "claude-../x"])
def test_other_models_are_404(name: str) -> None:
    error = fault(body(model=name))
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_the_nearest_model_is_named() -> None:
    assert 'perhaps you meant "haiku"' in fault(body(model="max/hiaku")).message


def test_options() -> None:
    ask = translate(body(stream=True, stream_options={"include_usage": True}, max_tokens=5, max_completion_tokens=7))
    assert (ask.stream, ask.include_usage, ask.max_tokens) == (True, True, 7)
    assert translate(body(stream=None, max_tokens=None)).max_tokens is None


def test_what_the_cli_has_no_option_for_is_named() -> None:
    assert translate(body(temperature=0, top_p=1, user="someone", seed=None)).ignored == ("temperature", "top_p")


def test_tools_servers_and_session_are_asked_for_by_name() -> None:
    ask = translate(body(claude_tools=["Read", "Read"], mcp_servers=["docs"], session_id="a-1"))
    assert (ask.tools, ask.servers, ask.session) == (("Read",), ("docs",), "a-1")
    assert translate(body()).tools is None
    assert translate(body(claude_tools=[])).tools == ()


IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/gif": b"GIF89a\x01\0\x01\0\0\0",
    "image/webp": b"RIFF\x1a\0\0\0WEBPVP8L",
}


def image(declared: str, content: bytes) -> dict[str, Any]:
    url = f"data:{declared};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(("kind", "content"), IMAGES.items())
def test_an_image_becomes_a_block(kind: str, content: bytes) -> None:
    source = {"type": "base64", "media_type": kind, "data": base64.b64encode(content).decode()}
    assert translate(body(user([image(kind, content)]))).prompt == [{"type": "image", "source": source}]


@pytest.mark.parametrize(
    ("declared", "content", "held"),
    [(declared, content, held) for declared in IMAGES for held, content in IMAGES.items() if held != declared]
    + [("image/png", each, "no image") for each in (b"", b"%PDF-1.7 and so on", b"\x89PNG", b"RIFF\x1a\0\0\0WAVE")],
)
def test_an_image_that_is_not_what_it_says_is_refused(declared: str, content: bytes, held: str) -> None:
    error = fault(body(user([{"type": "text", "text": "see"}, image(declared, content)])))
    assert (error.status, error.param) == (400, "messages[0].content[1]")
    assert (held if content else "base64") in error.message


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        ([], None),
        ({"model": "opus"}, "messages"),
        ({"model": "opus", "messages": []}, "messages"),
        ({"messages": [user("x")]}, "model"),
        (body(user("x"), {"role": "assistant", "content": "y"}), "messages"),
        (body({"role": "assistant", "content": "y"}, user("x")), "messages"),
        (body({"role": "system", "content": "y"}), "messages"),
        (body(user("  ")), "messages"),
        (body({"role": "tool", "content": "x"}), "messages[0].role"),
        (body("x"), "messages[0].role"),  # type: ignore[arg-type]  # a client may send anything
        (body(user(7)), "messages[0].content"),
        (body(user([7])), "messages[0].content[0]"),
        (
            body(user([{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}])),
            "messages[0].content[0]",
        ),
        (body({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls"),
        (body(tools=[{"type": "function"}]), "tools"),
        (body(claude_tools="Read"), "claude_tools"),
        (body(mcp_servers=[{"command": "/bin/sh"}]), "mcp_servers"),
        (body(mcp_servers={"docs": {"command": "/bin/sh"}}), "mcp_servers"),
        (body(mcp_config={}), "mcp_config"),
        (body(mcpServers={"docs": {"command": "/bin/sh"}}), "mcpServers"),
        (body(settings=None), "settings"),
        (body(session_id=""), "session_id"),
        (body(session_id="../x"), "session_id"),
        (body(session_id=7), "session_id"),
        (body(stop=["x"]), "stop"),
        (body(n=2), "n"),
        (body(logprobs=True), "logprobs"),
        (body(response_format={"type": "json_object"}), "response_format"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens=True), "max_tokens"),
        (body(stream="yes"), "stream"),
        (body(stream_options=7), "stream_options"),
    ],
)
def test_a_refusal_names_the_field(request_body: Any, param: str | None) -> None:
    error = fault(request_body)
    assert (error.status, error.param) == (400, param)


def test_empty_values_of_what_is_unsupported_are_no_fault() -> None:
    translate(body(tools=[], stop=None, n=1, logprobs=False, response_format={"type": "text"}))
