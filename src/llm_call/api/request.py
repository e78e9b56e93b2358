"""Reads a request: no more is checked than what the gateway itself needs; the rest is the upstream's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import orjson

from serving import body
from serving.asgi import Receive, Scope
from serving.errors import ApiError

Wire = Literal["chat/completions", "embeddings"]
"""What is asked for: the path below an upstream's base URL."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `raw` as it came, `body` as parsed."""

    wire: Wire
    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool

    def named(self, model: str) -> bytes:
        """Return the request as JSON under another model name; untouched if the name is the same."""
        return self.raw if model == self.model else encode({**self.body, "model": model})

    @property
    def deterministic(self) -> bool:
        """Whether asking again ought to give the same answer."""
        if self.wire == "embeddings":
            return True
        temperature = self.body.get("temperature")
        return (temperature == 0 and temperature is not False) or self.body.get("seed") is not None


async def read(scope: Scope, receive: Receive, wire: Wire, limit: int) -> Asked:
    """Return the request. Raises ApiError 400, 413 or 415, and ClientGone."""
    return parse(await body.read(scope, receive, limit), wire)


def parse(raw: bytes, wire: Wire) -> Asked:
    """Return the request in `raw`. Raises ApiError 400 naming the field at fault."""
    fields = body.parse(raw)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        reject("model", "is the name of a model, see GET /v1/models")
    if wire == "embeddings":
        if not isinstance(fields.get("input"), str | list) or not fields["input"]:
            reject("input", "is a text, or a list of texts or token numbers, and not empty")
        return Asked(wire, raw, fields, model, stream=False)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        reject("messages", "is a list of at least one message")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        reject("stream", "is true or false")
    return Asked(wire, raw, fields, model, bool(stream))


def encode(document: Any, option: int = 0) -> bytes:
    """Return parsed JSON as JSON again. Raises ApiError 400 for what can be parsed but not written: 255 levels deep."""
    try:
        return orjson.dumps(document, option=option)
    except orjson.JSONEncodeError as error:
        message = "The body is nested too deeply."
        raise ApiError(400, message, code="invalid_json") from error


def reject(param: str, message: str) -> NoReturn:
    """Raise ApiError 400 for the field `param`."""
    raise ApiError(400, f'"{param}" {message}.', param=param, code="invalid_value")
