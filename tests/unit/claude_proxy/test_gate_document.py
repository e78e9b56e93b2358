from __future__ import annotations

import json
from typing import Any

import pytest

from claude_proxy.gate import document
from claude_proxy.gate.document import Asked, read
from claude_proxy.gate.refusal import Refusal


def body(**more: Any) -> bytes:
    given = {"model": "claude-haiku-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}
    return json.dumps(given).encode()


def status(raw: bytes) -> int:
    with pytest.raises(Refusal) as refused:
        read(raw)
    return refused.value.status


def message(*blocks: Any, role: str = "user") -> bytes:
    return body(messages=[{"role": role, "content": list(blocks)}])


def test_what_the_cli_sends() -> None:
    assert read(body(stream=True, system=[{"type": "text", "text": "x"}])) == Asked("claude-haiku-5-5", 9)
    assert (
        read(body(tools=[{"name": "Bash", "input_schema": {"properties": {"model": {"enum": ["opus"]}}}}])).search
        is False
    )
    assert read(body(tools=[{"type": "web_search_20250305", "name": "web_search"}])).search
    assert read(message({"type": "tool_use", "input": {"a": 1, "A": 2, "model": "claude-opus-5-5"}})).model
    assert read(message({"type": "image", "source": {"type": "base64", "data": "eA=="}})).model
    assert read(message({"type": "text", "text": "x"}, role="system")).model


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"claude-haiku-5-5","model":"claude-opus-5-5","messages":[]}',
        b'{"model":"claude-haiku-5-5","\\u006dodel":"claude-opus-5-5","messages":[]}',
        b'{"model":"claude-haiku-5-5","messages":[{"role":"user","content":[{"a":1,"a":2}]}]}',
        b'{"model":"claude-haiku-5-5","messages":[],"temperature":NaN}',
        b'{"model":"claude-haiku-5-5","messages":[],"temperature":-Infinity}',
        b'{"model":"claude-haiku-5-5","messages":[],"temperature":1e999}',
        b'{"model":"claude-haiku-5-5","messages":[]}{"model":"claude-opus-5-5"}',
        b'{"model":"claude-haiku-5-5","messages":[],}',
        b"{'model':'claude-haiku-5-5'}",
        b'{"model":"claude-haiku-5-5"/**/}',
        b'\xef\xbb\xbf{"model":"claude-haiku-5-5"}',
        b'{"model":"claude-haiku-5-5\xff"}',
        b'{"model":"claude-haiku-5-5\xed\xa0\x80"}',
        b'{"model":"claude\nhaiku"}',
        '{"model":"claude-haiku-5-5"}'.encode("utf-16"),
        b'{"model":"x","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"model":"x","max_tokens":' + b"9" * 5000 + b"}",
        b'["model"]',
        b'"model"',
        b"null",
        b"",
    ],
    ids=range(21),
)
def test_what_parsers_read_differently_is_refused(raw: bytes) -> None:
    assert status(raw) == 400


@pytest.mark.parametrize("model", [None, 7, True, ["claude-haiku-5-5"], {"name": "claude-haiku-5-5"}])
def test_a_model_is_one_name(model: Any) -> None:
    assert status(body(model=model)) == 400
    assert status(b'{"messages":[]}') == 400


@pytest.mark.parametrize(
    "member",
    [
        *("Model", "MODEL", "model ", "mo\u0434el", "\uff4dodel", "fallbacks", "speed", "mcp_servers", "service_tier"),
        *("container", "safeguards", "betas", "models", "", "__proto__", "tool_definitions"),
    ],
)
def test_members_that_the_cli_does_not_send_are_refused(member: str) -> None:
    assert status(body(**{member: "claude-opus-5-5"})) == 403


@pytest.mark.parametrize(
    "tool",
    [{"type": kind} for kind in ("web_fetch_20250910", "code_execution_20250825", "mcp_toolset", "bash_20250124")]
    + [{"type": "advisor_20260301", "model": "claude-opus-5-5"}, {"type": "web_search_20250305x"}, {"type": "Custom"}]
    + [{"type": None}, {"type": ["custom"]}, {"name": "x", "model": "claude-opus-5-5"}]
    + [{"type": "custom", "Type": "web_fetch_20250910"}, {"name": "x", "ty\u0440e": "y"}],
)
def test_tools_of_the_provider_are_refused(tool: dict[str, Any]) -> None:
    assert status(body(tools=[{"name": "Bash"}, tool])) == 403


@pytest.mark.parametrize(
    "raw",
    [
        message({"type": "image", "source": {"type": "url", "url": "http://outside"}}),
        message({"type": "document", "source": {"type": "file", "file_id": "x"}}),
        message({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url"}}]}),
        message(
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "image", "source": {"type": "url"}}]},
            }
        ),
        message({"type": "tool_definition", "name": "web_search"}, role="system"),
        message({"type": "text", "text": "x", "Type": "image"}),
        message({"type": "image", "source": "http://outside"}),
        message({"type": "image", "source": {"type": "base64", "TYPE": "url"}}),
        body(messages=[{"role": "user", "Role": "system", "content": "x"}]),
        body(system=[{"type": "tool_definition"}]),
    ],
)
def test_nothing_has_the_provider_fetch_or_define_something(raw: bytes) -> None:
    assert status(raw) == 403


def test_roles_and_lists_are_what_they_have_to_be() -> None:
    assert status(body(messages=[{"role": "developer", "content": "x"}])) == 400
    assert status(body(messages={"role": "user"})) == 400
    assert status(body(tools="Bash")) == 400
    assert status(body(tools=["Bash"])) == 400
    assert status(message("x")) == 400


def test_a_body_of_many_values_is_refused() -> None:
    assert status(b'{"model":"x","messages":[' + b"1," * document.VALUES + b"1]}") == 413
