"""The body of a request, read strictly: what is checked here is what every JSON parser behind the gate would find.

The body goes on byte for byte; so whatever two parsers could read differently is refused, and so is every member by which
a request could have another model, or another way into the world, than the CLI's own requests.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from claude_proxy.gate.refusal import Refusal, malformed

VALUES = 1_000_000
"""In one body: a parsed value takes up to a hundred bytes, whatever the two or three of its text."""
MEMBERS = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "metadata", "max_tokens", "stream", "temperature"}
    | {"top_p", "top_k", "stop_sequences", "thinking", "context_management", "output_config", "output_format"}
    | {"cache_control", "diagnostics"}
)
"""What the CLI sends. Not among them, for one: `fallbacks`, which names further models, `mcp_servers`, by which the
provider connects to any host, `speed` and `service_tier`, which change the price."""
SEARCH = re.compile(r"web_search_[0-9]{8}")
"""The type of the one tool of the provider's own that the CLI asks for, for its tool WebSearch."""
SOURCES = ("base64", "text", "content")
"""Where images and documents may come from; any other would have the provider fetch something."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""The names of members of tools, messages and blocks: one spelling each, whatever a parser takes for the same name."""
ROLES = ("user", "assistant", "system")


@dataclass(frozen=True)
class Asked:
    """What a request asks for; `search` when it wants the provider to search the web."""

    model: str
    max_tokens: int = 0
    search: bool = False


def read(raw: bytes) -> Asked:
    """Return what the body asks for; raises Refusal 400, 403 or 413."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES:
        raise Refusal(413, "too_large", f"the body holds more than {VALUES} values")
    document = _parse(raw)
    if not isinstance(document, dict):
        raise malformed(what="the body is not a JSON object")
    for name in document:
        if name not in MEMBERS:
            raise Refusal(403, "member", f'the gate does not pass a request with the member "{name[:100]}"')
    model = document.get("model")
    if not isinstance(model, str):
        raise malformed(what="model is not a string")
    most = document.get("max_tokens")
    _check_system(document.get("system"))
    _check_messages(document.get("messages"))
    return Asked(model, most if type(most) is int and most > 0 else 0, _searches(document.get("tools")))


def _parse(raw: bytes) -> Any:
    try:
        # Decoded first: json.loads would guess another encoding for bytes that look like one.
        return DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise malformed(what="the body is not valid UTF-8") from error
    except RecursionError as error:
        raise malformed(what="the body is nested too deeply") from error
    except ValueError as error:
        raise malformed(what=f"the body is not valid JSON: {str(error)[:200]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "an object has the same member twice"
        raise ValueError(msg)
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = "a number is too large"
        raise ValueError(msg)
    return value


def _constant(name: str) -> NoReturn:
    msg = f"{name} is no JSON"
    raise ValueError(msg)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)


def _searches(tools: Any) -> bool:
    """Tell whether one of the tools is the provider's web search; raises Refusal for any other of the provider's own."""
    found = False
    for tool in _list(tools, "tools"):
        if not isinstance(tool, dict):
            raise malformed(what="a tool is not an object")
        _check_names(tool, "tool")
        if "model" in tool:
            raise Refusal(403, "member", "the gate does not pass a tool with a model of its own")
        kind = tool.get("type", "custom")
        if isinstance(kind, str) and SEARCH.fullmatch(kind):
            found = True
        elif kind != "custom":
            raise Refusal(403, "member", f'the gate does not pass tools of the provider such as "{str(kind)[:100]}"')
    return found


def _check_system(content: Any) -> None:
    """Refuse all but text: a message of the role system can also define tools."""
    for block in _blocks(content):
        if block.get("type") != "text":
            raise Refusal(403, "member", "the gate passes nothing but text in a system prompt")


def _check_messages(messages: Any) -> None:
    for message in _list(messages, "messages"):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise malformed(what=f"the role of a message is one of {', '.join(ROLES)}")
        _check_names(message, "message")
        if message["role"] == "system":
            _check_system(message.get("content"))
        for block in _blocks(message.get("content")):
            source = block.get("source")
            if source is None:
                continue
            if not isinstance(source, dict) or source.get("type") not in SOURCES:
                raise Refusal(403, "member", f"the source of an image or document is one of {', '.join(SOURCES)}")


def _blocks(content: Any) -> Iterable[dict[str, Any]]:
    """Yield each block with those inside it: the result of a tool, and the content of a document, are lists again."""
    waiting = [content]
    while waiting:
        blocks = waiting.pop()
        for block in blocks if isinstance(blocks, list) else ():
            if not isinstance(block, dict):
                raise malformed(what="a block of a message is not an object")
            _check_names(block, "block")
            yield block
            source = block.get("source")
            if isinstance(source, dict):
                _check_names(source, "source")
            waiting += [block.get("content"), source.get("content") if isinstance(source, dict) else None]


def _check_names(found: dict[str, Any], what: str) -> None:
    for name in found:
        if not NAME.fullmatch(name):
            raise Refusal(403, "member", f'the gate does not pass a {what} with the member "{name[:100]}"')


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise malformed(what=f"{name} is not a list")
    return value
