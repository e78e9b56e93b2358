"""The CLI's `stream-json` output, line by line, as the few events that matter here. It reads nothing by itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import orjson

from claude_proxy import failures
from claude_proxy.conversation import Turn

ENDINGS = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "content_filter"}
"""Stop reasons after which the CLI would go on by itself, with a prompt of its own; here they end the answer."""

PARAGRAPH = "\n\n"
"""Between what is said before and after a use of a tool."""

OMITTED = b"\0"
"""In place of a line that was too long to be read. Whoever writes the very same gains nothing by it."""
MOST_CHARACTERS = 2 << 20
"""Of all text of one answer: half a million tokens. A tool can write in the CLI's place, so whatever is collected is bounded."""
LONGEST_NAME, LONGEST_REASON = 200, 1000
"""In characters: of a model's name, and of what the CLI says of a failure."""
MOST_TOKENS, MOST_DOLLARS = 10**9, 10_000.0
"""What is believed of one request."""
FREE, MARK = 1 << 20, 128
"""Bytes that a document may take in memory without a closer look, and what each of its values is counted as."""
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class TooMuchKeptError(ValueError):
    """The turns of an answer take more memory than the session that they are kept for may."""


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
        self.fresh = _count(usage.get("input_tokens"), self.fresh)
        self.cache_written = _count(usage.get("cache_creation_input_tokens"), self.cache_written)
        self.cache_read = _count(usage.get("cache_read_input_tokens"), self.cache_read)
        self.output = _count(usage.get("output_tokens"), self.output)
        self.thinking = _count(_fields(usage.get("output_tokens_details")).get("thinking_tokens"), self.thinking)


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
    keep: int = 0
    """Bytes of memory for the turns; where it is 0, none are kept."""
    _text: StringIO = field(default_factory=StringIO)
    _complete: bool = True
    _usage: Usage = field(default_factory=Usage)
    _failure: tuple[str, int | None] = ("", None)
    _before: StringIO = field(default_factory=StringIO)
    _turns: list[Turn] = field(default_factory=list)
    _kept: int = 0

    def feed(self, line: bytes) -> Event | None:
        """Return what a line means, if it means anything.

        Raises ApiError for a failure that the CLI tells of and for too long an answer, TooMuchKeptError.
        """
        if line == OMITTED or (worth := _worth(line)) > max(FREE, 8 * len(line)):
            # No CLI writes such a document. A long line without structure is a message with a picture.
            self._keep(self.keep + 1)
            return None
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            # The CLI writes a plain line now and then, such as a warning; the result decides, not these.
            return None
        if not isinstance(document, dict) or document.get("parent_tool_use_id"):
            return None
        kind = document.get("type")
        if kind == "stream_event":
            return self._stream_event(_fields(document.get("event")))
        if kind == "result":
            return self._result(document)
        response = _fields(document.get("response"))
        if kind == "control_response" and response.get("subtype") == "error":
            raise failures.not_started(_words(response.get("error"))[:500])
        if kind == "assistant" and document.get("error"):
            self._failure = (_words(document["error"]), _status(document.get("api_error_status")))
        elif kind in ("assistant", "user"):
            self._keep(worth)
            self._note(kind, _fields(document.get("message")).get("content"))
        elif kind == "system" and document.get("subtype") == "api_retry":
            delay = _number(document.get("retry_delay_ms"))
            if error := failures.from_retry(_status(document.get("error_status")), delay):
                raise error
        return None

    def _stream_event(self, event: dict[str, Any]) -> Event:
        kind = event.get("type")
        if kind == "message_start":
            return self._start(_fields(event.get("message")))
        delta = _fields(event.get("delta"))
        if kind == "content_block_delta" and delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
            return self._piece(delta["text"])
        if kind == "message_delta":
            return self._end(delta.get("stop_reason"), _fields(event.get("usage")))
        return Activity()

    def _piece(self, text: str) -> Text:
        gap = PARAGRAPH if self._before.tell() and not self._text.tell() else ""
        if self._before.tell() + self._text.tell() + len(text) > MOST_CHARACTERS:
            raise failures.too_large()
        self._text.write(text)
        return Text(gap + text)

    def _joined(self, text: str) -> str:
        """Return the text together with what was said before the last use of a tool."""
        before = self._before.getvalue()
        return before + PARAGRAPH + text if before and text else before or text

    def _keep(self, size: int) -> None:
        if self.keep:
            self._kept += size
            if self._kept > self.keep:
                raise TooMuchKeptError(self._kept)

    def _note(self, role: str, content: Any) -> None:
        """Keep what becomes part of the conversation; the CLI tells an answer of several blocks block by block."""
        if not self.keep or not isinstance(content, list):
            return
        content = [block for block in content if isinstance(block, dict)]
        if self._turns and self._turns[-1].role == role:
            self._turns[-1].content.extend(content)
        else:
            self._turns.append(Turn(role, content))

    def _finished(self, text: str, reason: str, cost: float | None = None) -> Finished:
        turns = list(self._turns)
        if text and (not turns or turns[-1].role != "assistant"):
            turns.append(Turn("assistant", [{"type": "text", "text": text}]))
        return Finished(self._joined(text), reason, self._usage, self.model, cost, tuple(turns))

    def _end(self, reason: Any, usage: dict[str, Any]) -> Event:
        # Only this tells a whole answer: the CLI makes a `message_stop` of its own for an answer that broke off.
        self._complete = bool(reason)
        self._usage.update(usage)
        if isinstance(reason, str) and reason in ENDINGS:
            return self._finished(self._text.getvalue(), ENDINGS[reason])
        return Activity()

    def _start(self, message: dict[str, Any]) -> Began:
        restarted = not self._complete
        if not restarted:
            # Only what is new is copied: an impostor may begin again and again.
            if self._text.tell():
                self._before.write((PARAGRAPH if self._before.tell() else "") + self._text.getvalue())
        elif self._turns and self._turns[-1].role == "assistant":
            self._turns.pop()  # what the broken attempt said is said anew
        self._text, self._complete = StringIO(), False
        self._usage.update(_fields(message.get("usage")))
        model = message.get("model")
        self.model = model if model and isinstance(model, str) and len(model) <= LONGEST_NAME else self.model
        return Began(self.model, restarted)

    def _result(self, document: dict[str, Any]) -> Finished:
        words = document.get("result")
        words = words if isinstance(words, str) else ""
        if self._before.tell() + len(words) > MOST_CHARACTERS:
            raise failures.too_large()
        if document.get("is_error") or document.get("subtype") != "success":
            kind, status = self._failure
            raise failures.from_result(kind, _status(document.get("api_error_status")) or status, words)
        self._usage.update(_fields(document.get("usage")))
        # The CLI's result is the last block of text only; and where streaming broke off, all that there is.
        text = self._text.getvalue() if self._complete and self._text.tell() else words
        return self._finished(text, "stop", _cost(document.get("total_cost_usd")))


def _worth(line: bytes) -> int:
    """Return how many bytes of memory a document takes at most once it is read."""
    size = len(line) if line.isascii() and b"\\u" not in line else 4 * len(line)
    found = size + MARK * _marks(line)
    return found if found <= FREE else size + MARK * _marks(STRINGS.sub(b"", line))


def _marks(line: bytes) -> int:
    return sum(line.count(mark) for mark in (b"{", b"[", b",", b":"))


def _words(value: Any) -> str:
    return value[:LONGEST_REASON] if isinstance(value, str) else str(value)[:LONGEST_REASON]


def _fields(value: Any) -> dict[str, Any]:
    """Return an object of the CLI's, an empty one for anything else: a program that errs must not break ours."""
    return value if isinstance(value, dict) else {}


def _count(value: Any, known: int) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else known


def _cost(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else min(number, MOST_DOLLARS)


def _number(value: Any) -> float | None:
    """Return a number of at least 0; None for anything else."""
    return value if type(value) in (int, float) and 0 <= value < math.inf else None


def _status(value: Any) -> int | None:
    return value if type(value) is int else None
