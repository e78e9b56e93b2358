from __future__ import annotations

import json
from typing import Any

import pytest

from claude_proxy.gate.usage import LARGEST_LINE, Counter

STREAM = b"text/event-stream; charset=utf-8"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event(
    "message_start", message={"usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}}
)
PIECE = event("content_block_delta", delta={"type": "text_delta", "text": 'a "usage" of words, ' * 10})
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 40})
SAID = START + PIECE + PIECE + END + event("message_stop")


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_stream_is_counted_however_it_is_cut(size: int) -> None:
    counter = Counter(1000)
    counter.begin(200, STREAM)
    for start in range(0, len(SAID), size):
        counter.feed(SAID[start : start + size])
    assert counter.tokens(whole=True) == (15, 40)


def test_line_ends_of_windows_count_as_well() -> None:
    counter = Counter(1000)
    counter.begin(200, STREAM)
    counter.feed(SAID.replace(b"\n", b"\r\n"))
    assert counter.tokens(whole=True) == (15, 40)


def test_a_document_is_counted() -> None:
    counter = Counter(1000)
    counter.begin(200, b"application/json")
    counter.feed(b'{"usage": {"input_tokens": 3, "cache_creation_input_tokens": 4, ')
    counter.feed(b'"output_tokens": 5}}')
    assert counter.tokens(whole=True) == (7, 5)


def test_counting_tokens_costs_none() -> None:
    counter = Counter(1000)
    counter.begin(200, b"application/json")
    counter.feed(b'{"input_tokens": 99}')
    assert counter.tokens(whole=True) == (0, 0)


def test_a_refused_call_costs_nothing() -> None:
    counter = Counter(1000)
    counter.begin(529, b"application/json")
    counter.feed(b'{"type": "error"}')
    assert counter.tokens(whole=True) == (0, 0)


def test_whoever_leaves_early_pays_for_what_was_said() -> None:
    counter = Counter(1000)
    counter.begin(200, STREAM)
    counter.feed(START + PIECE * 30)
    spent, said = counter.tokens(whole=False)
    assert spent == 15
    assert said > 30 * 200 // 4
    assert counter.tokens(whole=True) == (spent, said)  # a stream that broke off, however it ended
    silent = Counter(3000)
    assert silent.tokens(whole=False) == (1000, 0)


def test_strange_figures_count_nothing() -> None:
    counter = Counter(0)
    counter.begin(200, STREAM)
    counter.feed(event("message_delta", usage={"output_tokens": -5, "input_tokens": "9"}))
    counter.feed(event("message_delta", usage=[1]) + b'data: {"usage"\n\ndata: 7 "usage"\n\n')
    assert counter.tokens(whole=True) == (0, 0)


def test_a_line_without_end_is_not_kept() -> None:
    counter = Counter(0)
    counter.begin(200, STREAM)
    for _ in range(64):
        counter.feed(b"x" * 65536)
    assert len(counter._kept) <= LARGEST_LINE
    counter.feed(b"\n" + SAID)
    assert counter.tokens(whole=True) == (15, 40)
