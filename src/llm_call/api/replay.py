"""A whole chat completion as the stream that it could have been: for a kept answer that is asked for as a stream."""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


def events(body: bytes, *, include_usage: bool) -> bytes | None:
    """Return the stream's bytes, or None if `body` is no chat completion."""
    try:
        document = orjson.loads(body)
        choices = document["choices"]
        head = {name: value for name, value in document.items() if name not in ("choices", "usage")}
        head["object"] = "chat.completion.chunk"
        pieces = [_frame(head, [_choice(each, finish=False)]) for each in choices]
        pieces += [_frame(head, [_choice(each, finish=True)]) for each in choices]
        if include_usage:
            pieces.append(_frame({**head, "usage": document.get("usage")}, []))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return b"".join(pieces) + DONE


def _choice(choice: dict[str, Any], *, finish: bool) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason")}
    if finish:
        return {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        # In a stream each call says which one it is.
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
    return {**rest, "delta": delta, "finish_reason": None}


def _frame(head: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return b"data: " + orjson.dumps({**head, "choices": choices}) + b"\n\n"
