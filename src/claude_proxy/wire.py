"""OpenAI's documents: the plain answer, the chunks of a stream, and their frames."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from claude_proxy.events import Finished, Usage

DONE = b"data: [DONE]\n\n"


def usage(counted: Usage, cost: float | None = None) -> dict[str, Any]:
    """Return OpenAI's usage; what came from the prompt cache counts as prompt there too. The cost is in USD."""
    prompt = counted.fresh + counted.cache_written + counted.cache_read
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": counted.output,
        "total_tokens": prompt + counted.output,
        "prompt_tokens_details": {"cached_tokens": counted.cache_read},
        "completion_tokens_details": {"reasoning_tokens": counted.thinking},
    }
    return counts if cost is None else counts | {"cost_usd": cost}


def frame(document: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


@dataclass
class Answer:
    """The identity that the plain answer, or all chunks of one stream, share."""

    model: str
    include_usage: bool = False
    session: str = ""
    ident: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def plain(self, finished: Finished) -> dict[str, Any]:
        """Return the whole answer as one document."""
        message = {"role": "assistant", "content": finished.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason}
        counted = usage(finished.usage, finished.cost)
        return self._head("chat.completion") | {"choices": [choice], "usage": counted} | self._session(finished)

    def opening(self) -> bytes:
        """Return the first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Return a chunk with the next piece of text."""
        return self._chunk({"content": text})

    def closing(self, finished: Finished) -> bytes:
        """Return the last chunks: why it ended, the usage where it was asked for, and the end mark."""
        end = self._chunk({}, finished.reason, self._session(finished))
        if self.include_usage:
            counted = self._head("chat.completion.chunk") | {
                "choices": [],
                "usage": usage(finished.usage, finished.cost),
            }
            end += frame(counted)
        return end + DONE

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, extra: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        document = self._head("chat.completion.chunk") | {"choices": [choice]} | (extra or {})
        # OpenAI's own wire: with include_usage every chunk but the last says that its usage is null.
        return frame(document | {"usage": None} if self.include_usage else document)

    def _session(self, finished: Finished) -> dict[str, Any]:
        return {"session_id": self.session, "session_turns": finished.kept} if self.session else {}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.ident, "object": kind, "created": self.created, "model": self.model}
