"""Reads the tokens of an answer while it passes, in one document or event by event. It changes and delays nothing."""

from __future__ import annotations

from typing import Any

import orjson

LARGEST_LINE = 1024 * 1024
LARGEST_DOCUMENT = 16 * 1024 * 1024
"""In bytes, of what is kept to be read; a longer line or document is passed on all the same, and estimated."""
FRAME = 85
"""Bytes of an event with a piece of text, but for the text."""
BYTES_PER_TOKEN = 3
INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Counter:
    """The tokens of one call. `sent` is the size of its body in bytes, for calls that end before they say anything."""

    def __init__(self, sent: int) -> None:
        self._sent = sent
        self._stream = False
        self._status = 0
        self._kept = bytearray()
        self._skipping = False
        self._received = 0
        self._pieces = 0
        self._input = self._output = 0
        self._said = self._ended = False

    def begin(self, status: int, content_type: bytes) -> None:
        """Take the head of the answer."""
        self._status = status
        self._stream = content_type.lower().startswith(b"text/event-stream")

    def feed(self, data: bytes) -> None:
        """Take a part of the answer's body."""
        self._received += len(data)
        if not self._stream:
            if len(self._kept) + len(data) <= LARGEST_DOCUMENT:
                self._kept += data
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not self._skipping:
                self._line(bytes(self._kept) + line if self._kept else line)
            self._kept.clear()
            self._skipping = False
        if len(self._kept) + len(rest) > LARGEST_LINE:
            self._kept.clear()
            self._skipping = True
        self._kept += b"" if self._skipping else rest

    def tokens(self, *, whole: bool) -> tuple[int, int]:
        """Return the tokens of input and output: what was said, and for an answer that broke off at least an estimate."""
        if not self._stream and whole:
            self._document()
        if self._status >= 400:
            return 0, 0
        if not self._status or not self._said:
            return max(self._input, self._sent // BYTES_PER_TOKEN), max(self._output, self._received // BYTES_PER_TOKEN)
        return self._input, self._output if whole and self._ended else max(self._output, self._pieces)

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        if b'"content_block_delta"' in line:
            self._pieces += max(1, (len(line) - FRAME) // BYTES_PER_TOKEN)
        elif b'"usage"' in line:
            self._ended = self._ended or b'"message_delta"' in line
            event = _loads(line[5:])
            message = event.get("message")
            self._note(message.get("usage") if isinstance(message, dict) else event.get("usage"))

    def _document(self) -> None:
        document = _loads(bytes(self._kept))
        self._note(document.get("usage"))
        # What counting tokens costs is nothing.
        self._said = self._said or set(document) == {"input_tokens"}

    def _note(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        self._said = True
        # An event repeats what was said before, or leaves it out.
        self._input = max(self._input, sum(_count(usage.get(name)) for name in INPUT))
        self._output = max(self._output, _count(usage.get("output_tokens")))


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _loads(text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
