"""The CLI's `stream-json` output, line by line, as the few events that matter here. It reads nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from claude_proxy import failures
from claude_proxy.conversation import Turn

ENDINGS = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "content_filter"}
"""Stop reasons after which the CLI would go on by itself, with a prompt of its own; here they end the answer."""

PARAGRAPH = "\n\n"
"""Between what is said before and after a use of a tool."""


@dataclass
class Usage:
    """Tokens as the Messages API counts them."""

    fresh: int = 0
    cache_written: int = 0
    cache_read: int = 0
    output: int = 0
    thinking: int = 0

    def update(self, usage: dict[str, Any]) -> None:
        """Take over the counts that `usage` names."""
        self.fresh = usage.get("input_tokens", self.fresh) or 0
        self.cache_written = usage.get("cache_creation_input_tokens", self.cache_written) or 0
        self.cache_read = usage.get("cache_read_input_tokens", self.cache_read) or 0
        self.output = usage.get("output_tokens", self.output) or 0
        self.thinking = (usage.get("output_tokens_details") or {}).get("thinking_tokens", self.thinking) or 0


@dataclass(frozen=True)
class Started:
    """A CLI was found for the request: one that waited (`ahead`), or a new one."""

    ahead: bool


@dataclass(frozen=True)
class Began:
    """The provider accepted the request; `restarted` when an answer broke off and a new one begins."""

    model: str
    restarted: bool = False


@dataclass(frozen=True)
class Text:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class Activity:
    """Something goes on that is not part of the answer, such as thinking."""


@dataclass(frozen=True)
class Finished:
    """The whole answer. `reason` is OpenAI's finish_reason, `cost` is in USD by the CLI's own reckoning.

    `turns` is what the conversation grew by, the uses of tools and their results included; `kept` is how
    many turns the session has now.
    """

    text: str
    reason: str
    usage: Usage
    model: str
    cost: float | None = None
    turns: tuple[Turn, ...] = ()
    kept: int = 0


Event = Started | Began | Text | Activity | Finished


@dataclass
class Reader:
    """Follows the output of one CLI."""

    model: str
    _text: str = ""
    _complete: bool = True
    _usage: Usage = field(default_factory=Usage)
    _failure: tuple[str, int | None] = ("", None)
    _before: str = ""
    _turns: list[Turn] = field(default_factory=list)

    def feed(self, line: bytes) -> Event | None:
        """Return what a line means, if it means anything; raises ApiError for a failure that the CLI tells of."""
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            # The CLI writes a plain line now and then, such as a warning; the result decides, not these.
            return None
        if not isinstance(document, dict) or document.get("parent_tool_use_id"):
            return None
        kind = document.get("type")
        if kind == "stream_event":
            return self._stream_event(document.get("event") or {})
        if kind == "result":
            return self._result(document)
        if kind == "control_response" and (document.get("response") or {}).get("subtype") == "error":
            raise failures.not_started(str(document["response"].get("error"))[:500])
        if kind == "assistant" and document.get("error"):
            self._failure = (str(document["error"]), document.get("api_error_status"))
        elif kind in ("assistant", "user"):
            self._note(kind, (document.get("message") or {}).get("content"))
        elif kind == "system" and document.get("subtype") == "api_retry":
            error = failures.from_retry(document.get("error_status"), document.get("retry_delay_ms"))
            if error:
                raise error
        return None

    def _stream_event(self, event: dict[str, Any]) -> Event:
        kind = event.get("type")
        if kind == "message_start":
            return self._start(event.get("message") or {})
        if kind == "content_block_delta" and event["delta"].get("type") == "text_delta":
            return self._piece(event["delta"]["text"])
        if kind == "message_delta":
            return self._end(event)
        return Activity()

    def _piece(self, text: str) -> Text:
        gap = PARAGRAPH if self._before and not self._text else ""
        self._text += text
        return Text(gap + text)

    def _joined(self, text: str) -> str:
        """Return the text together with what was said before the last use of a tool."""
        return self._before + PARAGRAPH + text if self._before and text else self._before or text

    def _note(self, role: str, content: Any) -> None:
        """Keep what becomes part of the conversation; the CLI tells an answer of several blocks block by block."""
        if not isinstance(content, list):
            return
        if self._turns and self._turns[-1].role == role:
            self._turns[-1].content.extend(content)
        else:
            self._turns.append(Turn(role, list(content)))

    def _finished(self, text: str, reason: str, cost: float | None = None) -> Finished:
        turns = list(self._turns)
        if text and (not turns or turns[-1].role != "assistant"):
            turns.append(Turn("assistant", [{"type": "text", "text": text}]))
        return Finished(self._joined(text), reason, self._usage, self.model, cost, tuple(turns))

    def _end(self, event: dict[str, Any]) -> Event:
        # Only this tells a whole answer: the CLI makes a `message_stop` of its own for an answer that broke off.
        reason = (event.get("delta") or {}).get("stop_reason")
        self._complete = bool(reason)
        self._usage.update(event.get("usage") or {})
        if reason in ENDINGS:
            return self._finished(self._text, ENDINGS[reason])
        return Activity()

    def _start(self, message: dict[str, Any]) -> Began:
        restarted = not self._complete
        if not restarted:
            self._before = self._joined(self._text)
        elif self._turns and self._turns[-1].role == "assistant":
            self._turns.pop()  # what the broken attempt said is said anew
        self._text, self._complete = "", False
        self._usage.update(message.get("usage") or {})
        self.model = message.get("model") or self.model
        return Began(self.model, restarted)

    def _result(self, document: dict[str, Any]) -> Finished:
        words = document.get("result")
        words = words if isinstance(words, str) else ""
        if document.get("is_error") or document.get("subtype") != "success":
            kind, status = self._failure
            raise failures.from_result(kind, document.get("api_error_status") or status, words)
        self._usage.update(document.get("usage") or {})
        # The CLI's result is the last block of text only; and where streaming broke off, all that there is.
        text = self._text if self._complete and self._text else words
        return self._finished(text, "stop", document.get("total_cost_usd"))
