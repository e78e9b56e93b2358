"""Reads a request: no more is checked than what the gateway itself needs; the rest is the upstream's business."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from serving import body, strict_json
from serving.asgi import Receive, Scope
from serving.errors import ApiError
from serving.strict_json import Document, Names, StrictJsonError

Wire = Literal["chat/completions", "embeddings"]
"""What is asked for: the path below an upstream's base URL."""


NAMES = Names(
    {"model", "models", "fallbacks", "preset", "messages", "input", "stream", "stream_options", "temperature", "seed"}
    | {"session_id", "claude_tools", "mcp_servers"}
)
"""The members that the gateway acts on, or that the Claude proxy does behind it: another spelling is refused."""


OTHER_MODELS = frozenset({"models", "fallbacks", "preset"})
"""Members by which upstreams that lead to others, such as OpenRouter and LiteLLM's proxy, take further models."""
COUNTED = {"include_usage": True}
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""What no name of a model holds; some servers read no further than to the NUL."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `body` as parsed, `text` the same as JSON, written here: the bytes that came go nowhere."""

    wire: Wire
    text: bytes
    body: dict[str, Any]
    model: str
    stream: bool

    def named(self, model: str, *, counting: bool = False, **more: Any) -> bytes:
        """Return the request as JSON under another model name; `counting` asks for the usage of a stream, too.

        `more` are further members.
        """
        if counting:
            more["stream_options"] = COUNTED | (self.body.get("stream_options") or {}) | COUNTED
        if model != self.model:
            more["model"] = model
        return encode({**self.body, **more}) if more else self.text

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asks for the usage of a stream."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def uncounted(self) -> bool:
        """Whether this is a stream without usage; what is no such option is left to the upstream to refuse."""
        if not self.stream or self.wants_usage:
            return False
        options = self.body.get("stream_options")
        return options is None or (isinstance(options, dict) and options.get("include_usage") in (None, False))

    @property
    def deterministic(self) -> bool:
        """Whether asking again ought to give the same answer."""
        if self.wire == "embeddings":
            return True
        temperature = self.body.get("temperature")
        return (temperature == 0 and temperature is not False) or self.body.get("seed") is not None


async def read(scope: Scope, receive: Receive, wire: Wire, limit: int) -> Asked:
    """Return the request. Raises ApiError 400, 413 or 415, and ClientGone."""
    return _asked(await body.document(scope, receive, limit, NAMES), wire)


def parse(raw: bytes, wire: Wire) -> Asked:
    """Return the request in `raw`. Raises ApiError 400 naming the field at fault."""
    return _asked(body.parse(raw, NAMES), wire)


def _asked(document: Document, wire: Wire) -> Asked:
    fields, text = document.members, document.text
    model = fields.get("model")
    if not isinstance(model, str) or not model or CONTROL.search(model):
        reject("model", "is the name of a model, see GET /v1/models")
    if wire == "embeddings":
        if not isinstance(fields.get("input"), str | list) or not fields["input"]:
            reject("input", "is a text, or a list of texts or token numbers, and not empty")
        return Asked(wire, text, fields, model, stream=False)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        reject("messages", "is a list of at least one message")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        reject("stream", "is true or false")
    return Asked(wire, text, fields, model, bool(stream))


def encode(document: Any, option: int = 0) -> bytes:
    """Return parsed JSON as JSON again. Raises ApiError 400 for what can be parsed but not written: 255 levels deep."""
    try:
        return strict_json.write(document, option)
    except StrictJsonError as error:
        raise ApiError(400, error.message, code="invalid_json") from error


def reject(param: str, message: str) -> NoReturn:
    """Raise ApiError 400 for the field `param`."""
    raise ApiError(400, f'"{param}" {message}.', param=param, code="invalid_value")
