"""The streaming and plain answers, driven in-process with a recording ASGI `send`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from claude_proxy.answers import Plain, Stream
from claude_proxy.conversation import Ask
from claude_proxy.events import Activity, Began, Event, Finished, Text, Usage
from serving.errors import ApiError

Sent = list[MutableMapping[str, Any]]


def finished(text: str) -> Finished:
    return Finished(text, "stop", Usage(output=1), "claude-x")


def drive(kind: Callable[..., Plain | Stream], *steps: Event | ApiError, ignored: tuple[str, ...] = ()) -> Sent:
    sent: Sent = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        answer = kind(Ask("opus", "", [], [], ignored=ignored), send)
        for step in steps:
            await (answer.fail(step) if isinstance(step, ApiError) else answer(step))

    asyncio.run(run())
    return sent


def body(sent: Sent) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_a_stream_sends_its_status_only_when_the_provider_accepted() -> None:
    assert drive(Stream, Activity()) == []
    with pytest.raises(ApiError, match="refused"):
        drive(Stream, ApiError(429, "refused"))
    assert drive(Stream, Began("claude-x"))[0]["status"] == 200


def test_an_error_after_the_start_is_the_last_event() -> None:
    sent = drive(Stream, Began("claude-x"), Text("a"), ApiError(504, "too late"))
    assert b"too late" in sent[-1]["body"]
    assert sent[-1]["more_body"] is False
    assert b"[DONE]" not in body(sent)


def test_what_streaming_left_out_is_sent_at_the_end() -> None:
    sent = drive(Stream, Began("claude-x"), Text("half "), finished("half and half"))
    assert b'"content":"and half"' in body(sent)


def test_a_different_answer_at_the_end_is_an_error() -> None:
    with pytest.raises(ApiError) as caught:
        drive(Stream, Began("claude-x"), Text("half "), finished("another"))
    assert caught.value.code == "claude_answer_interrupted"


def test_a_restart_is_harmless_before_the_first_text_only() -> None:
    drive(Stream, Began("claude-x"), Began("claude-x", restarted=True), Text("a"), finished("a"))
    with pytest.raises(ApiError):
        drive(Stream, Began("claude-x"), Text("a"), Began("claude-x", restarted=True))


def test_a_plain_answer_is_one_document_that_names_what_was_ignored() -> None:
    sent = drive(Plain, Began("claude-x"), Text("a"), finished("a"), ignored=("temperature",))
    assert len(sent) == 2
    assert (b"x-claude-proxy-ignored", b"temperature") in sent[0]["headers"]
    assert (b"content-length", str(len(sent[1]["body"])).encode()) in sent[0]["headers"]


def test_a_plain_error_is_left_to_the_handlers() -> None:
    with pytest.raises(ApiError, match="crashed"):
        drive(Plain, Began("claude-x"), ApiError(502, "crashed"))
