from __future__ import annotations

import json
from typing import Any

from claude_proxy.events import Finished, Usage
from claude_proxy.wire import Answer

COUNTED = Usage(fresh=10, cache_written=3, cache_read=4, output=5, thinking=2)
OPENAI = {
    "prompt_tokens": 17,
    "completion_tokens": 5,
    "total_tokens": 22,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def documents(frames: bytes) -> list[Any]:
    datas = [frame.removeprefix(b"data: ") for frame in frames.split(b"\n\n") if frame]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in datas]


def test_the_plain_document() -> None:
    document = Answer("claude-x").plain(Finished("text", "length", COUNTED, "claude-x"))
    assert document["object"] == "chat.completion"
    assert document["model"] == "claude-x"
    assert document["choices"][0]["message"]["content"] == "text"
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"] == OPENAI


def test_the_cost_and_the_session_are_told_where_they_are_known() -> None:
    finished = Finished("text", "stop", COUNTED, "claude-x", cost=0.5, kept=4)
    document = Answer("claude-x", session="s").plain(finished)
    assert document["usage"] == OPENAI | {"cost_usd": 0.5}
    assert (document["session_id"], document["session_turns"]) == ("s", 4)
    end, usage, _ = documents(Answer("claude-x", include_usage=True, session="s").closing(finished))
    assert (end["session_id"], end["session_turns"]) == ("s", 4)
    assert usage["usage"]["cost_usd"] == 0.5


def test_the_chunks_of_a_stream() -> None:
    answer = Answer("claude-x", include_usage=True)
    closing = answer.closing(Finished("text", "stop", COUNTED, "claude-x"))
    opening, piece, end, usage, done = documents(answer.opening() + answer.piece("te\nxt") + closing)
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert piece["choices"][0]["delta"] == {"content": "te\nxt"}
    assert end["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]) == ([], OPENAI)
    assert done == "[DONE]"
    assert len({document["id"] for document in (opening, piece, end, usage)}) == 1
    assert opening["usage"] is None


def test_no_usage_unless_asked_for() -> None:
    closing = documents(Answer("claude-x").closing(Finished("text", "stop", COUNTED, "claude-x")))
    assert len(closing) == 2
    assert "usage" not in closing[0]
