"""From an OpenAI chat request to what the CLI is asked: pure translation, every refusal says what to change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from claude_proxy import images, models
from serving.errors import ApiError

Block = dict[str, Any]
"""A content block of the Messages API."""

UNDERSTOOD = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
    | {"claude_tools", "mcp_servers", "session_id"}
)
CONFIGURING = frozenset(
    {
        "add_dir",
        "agents",
        "allowedTools",
        "allowed_tools",
        "args",
        "argv",
        "command",
        "cwd",
        "env",
        "extra_args",
        "hooks",
    }
    | {"mcp", "mcpConfig", "mcpServers", "mcp_config", "permission_mode", "permissions", "plugins", "settings"}
)
"""Fields by which relatives of this service let a request configure the CLI, or even start programs; never here."""
UNSUPPORTED = frozenset({"tools", "functions", "stop", "logprobs", "response_format"})
"""Fields that are refused, because they would change the answer if they were left out."""
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
SYSTEM_ROLES = ("system", "developer")
SILENT = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls", "tool_choice", "logprobs"})
"""Fields that change nothing about the answer when the CLI does not see them."""


@dataclass(frozen=True)
class Turn:
    """One message of the conversation; neighbours always have different roles."""

    role: str
    content: list[Block]


@dataclass(frozen=True)
class Ask:
    """One request to the CLI. `ignored` names the sampling parameters that the CLI has no option for.

    `tools` are those that it asks for (None: all that its key may use), `servers` the MCP servers, by name. `calls` of the
    model and `tokens` are what its key may have for one request, where the key says so; `most_...` what the gateway's client
    may have of that.
    """

    model: str
    system: str
    history: list[Turn]
    prompt: list[Block]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    ignored: tuple[str, ...] = ()
    tools: tuple[str, ...] | None = None
    servers: tuple[str, ...] = ()
    session: str = ""
    calls: int | None = None
    tokens: int | None = None
    most_calls: int | None = None
    most_tokens: int | None = None


def translate(body: Any) -> Ask:
    """Return what a request asks for; raises ApiError (400, 404) naming the field that is at fault."""
    if not isinstance(body, dict):
        _refuse("", "The body has to be a JSON object.")
    _refuse_unsupported(body)
    system, turns = _turns(body.get("messages"))
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        _refuse("stream_options", "stream_options has to be an object.")
    ignored = [name for name, value in body.items() if value is not None and name not in UNDERSTOOD | SILENT]
    return Ask(
        model=models.resolve(_string(body.get("model"), "model")),
        system=system,
        history=turns[:-1],
        prompt=turns[-1].content,
        stream=_boolean(body.get("stream"), "stream"),
        include_usage=_boolean(options.get("include_usage"), "stream_options.include_usage"),
        max_tokens=_max_tokens(body),
        ignored=tuple(sorted(str(name) for name in ignored)),
        tools=None if body.get("claude_tools") is None else _names(body, "claude_tools"),
        servers=_names(body, "mcp_servers"),
        session=_session(body.get("session_id")),
    )


def _refuse_unsupported(body: dict[str, Any]) -> None:
    """Refuse what would change the answer if it were left out silently."""
    for name in ("tools", "functions", "stop"):
        if body.pop(name, None):
            _refuse(name, f"{name} is not supported by this service; leave it out.")
    for name in sorted(CONFIGURING & body.keys()):
        hint = "the operator allows tools and MCP servers per key, a request names them by claude_tools and mcp_servers"
        _refuse(name, f"{name}: a request cannot configure the CLI; leave it out ({hint}).")
    if body.get("n") not in (None, 1):
        _refuse("n", "Only one answer per request is supported; leave n out.")
    if body.get("logprobs"):
        _refuse("logprobs", "Log probabilities are not available; leave logprobs out.")
    wanted = body.pop("response_format", None)
    if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") == "text"):
        _refuse("response_format", 'Only {"type": "text"} is supported; ask for JSON in the prompt.')


def _turns(messages: Any) -> tuple[str, list[Turn]]:
    """Return the system prompt and the turns, which begin and end with the user's."""
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "messages has to be a list of at least one message.")
    system: list[str] = []
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role in SYSTEM_ROLES:
            system.extend(block["text"] for block in _blocks(message.get("content"), place, pictures=False))
        elif role in ("user", "assistant"):
            _add(turns, Turn(role, _content(message, place)))
        else:
            supported = "system, developer, user or assistant (tools are off)"
            _refuse(f"{place}.role", f"{place}.role has to be one of {supported}.")
    if not turns or turns[-1].role != "user":
        _refuse("messages", "The last message has to be one of the user, with some content.")
    if turns[0].role != "user":
        _refuse("messages", "The first message, apart from the system's, has to be one of the user.")
    return "\n\n".join(system), turns


def _add(turns: list[Turn], turn: Turn) -> None:
    """Append a turn; the Messages API wants the roles to alternate and no empty content."""
    if turns and turns[-1].role == turn.role:
        turns[-1].content.extend(turn.content)
    elif turn.content:
        turns.append(turn)


def _content(message: dict[str, Any], place: str) -> list[Block]:
    if message.get("tool_calls") or message.get("function_call"):
        _refuse(f"{place}.tool_calls", f"{place} calls a tool; tools are not supported by this service.")
    return _blocks(message.get("content"), place, pictures=message["role"] == "user")


def _blocks(content: Any, place: str, *, pictures: bool) -> list[Block]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    if not isinstance(content, list):
        _refuse(f"{place}.content", f"{place}.content has to be a string or a list of parts.")
    blocks = [_part(part, f"{place}.content[{number}]", pictures) for number, part in enumerate(content)]
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


def _part(part: Any, place: str, pictures: bool) -> Block:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url" and pictures:
        return _image(part.get("image_url"), place)
    expected = "a text or image_url part" if pictures else "a text part"
    _refuse(place, f"{place} has to be {expected}.")


def _image(image: Any, place: str) -> Block:
    url = image.get("url") if isinstance(image, dict) else image
    try:
        return {"type": "image", "source": images.source(url if isinstance(url, str) else "")}
    except ValueError as error:
        _refuse(place, f"{place}.image_url.url {error}.")


def _max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            _refuse(name, f"{name} has to be a whole number of at least 1.")
        return value
    return None


def _names(body: dict[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        _refuse(name, f"{name} has to be a list of names; only the operator can say what stands behind a name.")
    return tuple(dict.fromkeys(value))


def _session(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not SESSION.fullmatch(value):
        _refuse("session_id", "session_id has to be a string of 1 to 64 letters, digits, _ and -.")
    return value


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        _refuse(name, f"{name} has to be a non-empty string.")
    return value


def _boolean(value: Any, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        _refuse(name, f"{name} has to be true or false.")
    return bool(value)


def _refuse(param: str, message: str) -> NoReturn:
    raise ApiError(400, message, param=param or None)
