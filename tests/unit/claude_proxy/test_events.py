from __future__ import annotations

import json
from typing import Any

import pytest

from claude_proxy.conversation import Turn
from claude_proxy.events import Activity, Began, Event, Finished, Reader, Text, Usage
from serving.errors import ApiError

START = {"type": "message_start", "message": {"model": "claude-x-1", "usage": {"input_tokens": 7, "output_tokens": 1}}}
STOP = {"type": "message_stop"}


def piece(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}


def ending(reason: str) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}


def stream(event: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "stream_event", "event": event, **fields}


def result(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "result": text, **fields}


def message(role: str, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": role, "message": {"role": role, "content": [block]}}


def read(*documents: Any) -> list[Event]:
    reader = Reader("opus", 1 << 20)
    events = [reader.feed(json.dumps(document).encode()) for document in documents]
    return [event for event in events if event is not None]


def failure(*documents: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*documents)
    return caught.value


def test_an_answer_in_pieces() -> None:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 5}
    events = read(
        {"type": "system", "subtype": "init"},
        stream(START),
        stream(piece("one ")),
        stream(piece("two")),
        stream(ending("end_turn")),
        stream(STOP),
        result("two", usage=usage, total_cost_usd=0.5),
    )
    assert events[:3] == [Began("claude-x-1"), Text("one "), Text("two")]
    # The result of the CLI is the last block of text only.
    turns = (Turn("assistant", [{"type": "text", "text": "one two"}]),)
    usage = Usage(fresh=7, cache_read=3, output=5)
    assert events[-1] == Finished("one two", "stop", usage, "claude-x-1", 0.5, turns)


def test_thinking_is_activity_but_no_text() -> None:
    thinking = {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}
    assert read(stream(START), stream(thinking)) == [Began("claude-x-1"), Activity()]


@pytest.mark.parametrize(("reason", "told"), [("max_tokens", "length"), ("refusal", "content_filter")])
def test_what_the_cli_would_go_on_from_ends_the_answer(reason: str, told: str) -> None:
    last = read(stream(START), stream(piece("half")), stream(ending(reason)))[-1]
    turns = (Turn("assistant", [{"type": "text", "text": "half"}]),)
    assert last == Finished("half", told, Usage(fresh=7, output=5), "claude-x-1", None, turns)


def test_what_is_said_around_a_tool_is_one_text_and_three_turns() -> None:
    use, told = {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}, {"type": "tool_result", "content": "out"}
    text = {"type": "text", "text": "I look"}
    events = read(
        stream(START),
        stream(piece("I look")),
        message("assistant", text),
        message("assistant", use),
        stream(ending("tool_use")),
        message("user", told),
        stream(START),
        stream(piece("it ")),
        stream(piece("is")),
        message("assistant", {"type": "text", "text": "it is"}),
        stream(ending("end_turn")),
        result("it is"),
    )
    last = events[-1]
    assert isinstance(last, Finished)
    assert "".join(event.text for event in events if isinstance(event, Text)) == last.text == "I look\n\nit is"
    assert [(turn.role, len(turn.content)) for turn in last.turns] == [("assistant", 2), ("user", 1), ("assistant", 1)]


def test_a_broken_attempt_is_no_part_of_the_conversation() -> None:
    broken = message("assistant", {"type": "text", "text": "ha"})
    whole = message("assistant", {"type": "text", "text": "whole"})
    steps = (stream(piece("whole")), whole, stream(ending("end_turn")))
    events = read(stream(START), stream(piece("ha")), broken, stream(START), *steps, result("whole"))
    assert isinstance(events[-1], Finished)
    assert [turn.content[0]["text"] for turn in events[-1].turns] == ["whole"]


def test_a_control_message_that_was_refused_is_an_error() -> None:
    refused = {"type": "control_response", "response": {"subtype": "error", "error": "no such model"}}
    assert "no such model" in failure(refused).message


def test_an_answer_that_broke_off_is_not_taken_for_the_whole() -> None:
    events = read(stream(START), stream(piece("ha")), stream(STOP, abandoned_blocks={}), result("half and half"))
    assert isinstance(events[-1], Finished)
    assert events[-1].text == "half and half"


def test_a_second_attempt_says_that_it_is_one() -> None:
    events = read(stream(START), stream(piece("ha")), stream(STOP), stream(START), stream(piece("whole")))
    assert [event for event in events if isinstance(event, Began)] == [
        Began("claude-x-1"),
        Began("claude-x-1", restarted=True),
    ]


def test_what_is_no_answer_is_passed_over() -> None:
    reader = Reader("opus")
    for line in (b"a warning", b"[]", b"7", b'"text"', b"{}", b'{"type":"future"}', b""):
        assert reader.feed(line) is None
    sub = stream(piece("of another"), parent_tool_use_id="toolu_1")
    assert read(sub) == []


MALFORMED: list[Any] = [None, 7, -1, 1e300, "text", [], [7], {}, {"type": 7}, {"text": 7}, {"delta": []}, True]


@pytest.mark.parametrize("bad", MALFORMED, ids=repr)
def test_a_line_with_other_fields_than_expected_breaks_nothing(bad: Any) -> None:
    """Each field of each kind of line in turn, with whatever the CLI may put there by mistake."""
    read(
        stream(bad),
        *[stream({"type": kind, "delta": bad, "message": bad, "usage": bad}) for kind in ("message_start", "x")],
        *[
            stream({"type": "content_block_delta", "delta": each})
            for each in (bad, {"type": "text_delta", "text": bad})
        ],
        stream({"type": "content_block_delta"}),
        stream({"type": "message_start", "message": {"model": bad, "usage": {"input_tokens": bad}}}),
        {"type": "assistant", "message": bad},
        {"type": "user", "message": {"content": [bad]}},
        {"type": "assistant", "error": bad, "api_error_status": bad},
        {"type": "control_response", "response": bad},
        {"type": "system", "subtype": "api_retry", "error_status": bad, "retry_delay_ms": bad},
        stream({"type": "message_delta", "delta": {"stop_reason": bad}, "usage": {"output_tokens_details": bad}}),
    )
    last = read(result("words", usage=bad, total_cost_usd=bad, model=bad))[-1]
    assert isinstance(last, Finished)
    assert (last.text, last.model, last.usage) == ("words", "opus", Usage())
    assert failure(result("words", is_error=True, api_error_status=bad)).status == 502


@pytest.mark.parametrize(
    ("delay", "told"), [(1e300, "3600"), (86_400_000, "3600"), (0, "1"), (-5, None), ("soon", None), (True, None)]
)
def test_nobody_is_told_to_wait_for_long(delay: Any, told: str | None) -> None:
    assert failure(retry(429, delay)).headers.get("retry-after") == told


def retry(status: int | None, delay: float = 600) -> dict[str, Any]:
    return {"type": "system", "subtype": "api_retry", "error_status": status, "retry_delay_ms": delay}


def test_a_rate_limit_fails_at_once_and_says_how_long() -> None:
    error = failure(retry(429, 8021))
    assert (error.status, error.code, error.headers) == (429, "claude_rate_limited", {"retry-after": "9"})


def test_a_refused_credential_fails_at_once_and_the_rest_is_left_to_the_cli() -> None:
    assert failure(retry(401)).code == "claude_not_authenticated"
    assert read(retry(500), retry(None)) == []


@pytest.mark.parametrize(
    ("kind", "status", "told", "code"),
    [
        ("authentication_failed", None, 503, "claude_not_authenticated"),
        ("", 403, 503, "claude_not_authenticated"),
        ("rate_limit", 429, 429, "claude_rate_limited"),
        ("", 404, 404, "model_not_found"),
        ("invalid_request", 400, 400, "claude_invalid_request"),
        ("billing_error", None, 503, "claude_billing_error"),
        ("server_error", 529, 503, "claude_overloaded"),
        ("server_error", 500, 502, "claude_upstream_error"),
        ("unknown", None, 502, "claude_upstream_error"),
    ],
)
def test_a_failed_result_has_a_status_of_its_own(kind: str, status: int | None, told: int, code: str) -> None:
    assistant = {"type": "assistant", "error": kind, "message": {}}
    error = failure(assistant, result("words", is_error=True, api_error_status=status))
    assert (error.status, error.code) == (told, code)


def test_an_error_by_subtype_is_an_error_too() -> None:
    assert failure({"type": "result", "subtype": "error_during_execution"}).status == 502


def test_the_clis_words_are_passed_on_only_where_the_client_can_mend_it() -> None:
    prompt = result("API Error: 400 prompt is too long", is_error=True, api_error_status=400)
    assert "prompt is too long" in failure(prompt).message
    server = result("check your gateway (10.0.0.7:80)", is_error=True, api_error_status=500)
    assert "10.0.0.7" not in failure(server).message
