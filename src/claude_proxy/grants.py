"""What a key may use: built-in tools of the CLI and MCP servers. A request may ask for less, never for more."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from claude_proxy.conversation import Ask
from claude_proxy.mcp import nearest
from claude_proxy.models import PREFIX
from serving.asgi import Scope, header
from serving.errors import ApiError
from serving.keys_file import EVERY, NUMBERS, Key

TOOLS = ("Bash", "Edit", "Glob", "Grep", "NotebookEdit", "Read", "Task", "WebFetch", "WebSearch", "Write")
"""The CLI's built-in tools that make sense for one request; `claude --tools` knows these names."""
WORDS = {"claude_tools": ("the tool", "tools"), "mcp_servers": ("the MCP server", "mcp")}
"""By the field of a request: what it names, and the option of a key that allows it."""
OPTIONS = (*EVERY, "tools", "mcp", *NUMBERS)
CLIENT, ALLOWED_TOOLS, ALLOWED_SERVERS = b"x-llm-call-client", b"x-llm-call-tools", b"x-llm-call-mcp"
"""What the gateway says of its client: the name of its key, and what that key may use (nothing, if it says nothing)."""
SCOPE = b"x-llm-call-scope"
"""What no other key of the gateway has, also none that gets the same name later (`serving.keys_file.Key.scope`)."""
MOST = {name: f"x-llm-call-{name}".encode() for name in NUMBERS}
"""By an option: how the gateway says that its client's key has it."""
NUMBER = re.compile(rb"[1-9][0-9]{0,17}")
NAME = re.compile(rb"[A-Za-z0-9._@-]{1,64}")
HEX = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Grant:
    """Who asks, and what this key's line in the keys file allows. `owner` says whose the sessions are, `most_...` what the
    gateway's client may have at most.
    """

    key: str = "anonymous"
    tools: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    calls: int | None = None
    tokens: int | None = None
    owner: str = "anonymous"
    most_calls: int | None = None
    most_tokens: int | None = None


def grant(key: Key, servers: Collection[str]) -> Grant:
    """Return what a key may use; names that do not exist (any more) allow nothing."""
    tools = tuple(name for name in key.options.get("tools", ()) if name in TOOLS)
    calls, tokens = (int(key.options[name][0]) if name in key.options else None for name in NUMBERS)
    servers = tuple(name for name in key.options.get("mcp", ()) if name in servers)
    return Grant(key.name, tools, servers, calls, tokens, f"{key.name}:{key.scope.hex()}")


def narrowed(granted: Grant, scope: Scope) -> Grant:
    """Return the grant of the client for whom a gateway asks: its own sessions, and no more tools than it may have.

    The headers can only take away from what the gateway's own key may use, so they need no proof. Raises ApiError 400.
    """
    client = header(scope, CLIENT)
    if client is None:
        return granted
    if not NAME.fullmatch(client):
        raise ApiError(
            400, f"The header {CLIENT.decode()} is a name of 1 to 64 letters, digits and . _ @ -", code="invalid_value"
        )
    told = header(scope, SCOPE) or b""
    if told and not HEX.fullmatch(told):
        raise ApiError(400, f"The header {SCOPE.decode()} has 64 hexadecimal digits.", code="invalid_value")
    tools, servers = (_words(header(scope, name)) for name in (ALLOWED_TOOLS, ALLOWED_SERVERS))
    who = f"{granted.key}/{client.decode()}"
    return Grant(
        who,
        tuple(name for name in granted.tools if name in tools),
        tuple(name for name in granted.servers if name in servers),
        granted.calls,
        granted.tokens,
        # By the gateway's name, so that sessions outlive a new key of the gateway.
        f"{who}:{told.decode()}",
        *(_most(scope, name) for name in MOST.values()),
    )


def _most(scope: Scope, name: bytes) -> int | None:
    value = header(scope, name)
    if value is not None and not NUMBER.fullmatch(value):
        raise ApiError(400, f"The header {name.decode()} is a whole number of at least 1.", code="invalid_value")
    return None if value is None else int(value)


def _words(value: bytes | None) -> set[str]:
    return {word.strip() for word in (value or b"").decode("latin-1").split(",")}


def faults(key: Key, servers: Collection[str]) -> list[str]:
    """Return what is wrong with a key's options, for the reader of the keys file."""
    known = {"tools": TOOLS, "mcp": tuple(sorted(servers))}
    return [
        f"{option}={name} does not exist; {nearest(name, known[option])}"
        for option in known
        for name in key.options.get(option, ())
        if name not in known[option]
    ]


def check_model(key: Key, model: str) -> None:
    """Raise ApiError 403 when a key may not use a model, under either of its names."""
    if not key.allows(model) and not key.allows(f"{PREFIX}{model}"):
        allowed = ", ".join(key.models or ())
        message = f'The key "{key.name}" may not use the model "{model}"; it may use {allowed}.'
        raise ApiError(403, message, type="permission_error", code="not_allowed_for_key", param="model")


def apply(ask: Ask, granted: Grant) -> Ask:
    """Return the request with the tools that it gets; raises ApiError 400 or 403."""
    tools = granted.tools if ask.tools is None else ask.tools
    for name in tools:
        if name not in TOOLS:
            message = f'claude_tools: there is no tool "{name[:100]}"; {nearest(name, TOOLS)}.'
            raise ApiError(400, message, param="claude_tools")
        if name not in granted.tools:
            raise _forbidden(name, granted, param="claude_tools")
    for name in ask.servers:
        if name not in granted.servers:
            raise _forbidden(name, granted, param="mcp_servers")
    return replace(
        ask,
        tools=tools,
        calls=granted.calls,
        tokens=granted.tokens,
        most_calls=granted.most_calls,
        most_tokens=granted.most_tokens,
    )


def _forbidden(name: str, granted: Grant, *, param: str) -> ApiError:
    what, option = WORDS[param]
    hint = f"leave it out, or ask the operator to add {option}={name[:100]} to the line of this key in the keys file"
    message = f'The key "{granted.key}" may not use {what} "{name[:100]}"; {hint}.'
    return ApiError(403, message, type="permission_error", code="not_allowed_for_key", param=param)
