"""What goes to a runner and what comes back: parcels, its words, lines without end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from claude_proxy import events, parcels
from claude_proxy.events import OMITTED, Reader, TooMuchKeptError
from claude_proxy.pool import Room, room
from claude_proxy.process import TooMuchOutputError, lines
from serving.errors import ApiError


def test_a_parcel_arrives_as_it_was_sent_and_cannot_be_changed(tmp_path: Path) -> None:
    files = {"system.txt": b"be brief", "history.jsonl": os.urandom(3 * parcels.PIECE + 7), "mcp.json": b""}
    with parcels.packed(files) as number:
        with pytest.raises(PermissionError):
            os.write(number, b"more")
        with pytest.raises(PermissionError):
            os.ftruncate(number, 0)
        parcels.unpack(number, parcels.listed(files), tmp_path)
        with pytest.raises(OSError, match="shorter than its list"):
            parcels.unpack(number, [("other", 1 << 30)], tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"ready",
        b"ready {}",
        b"ready []",
        b"ready null",
        b"ready " + b"[" * 1000,
        b'{"work": "/w", "memory": 2000000, "disk": 2000000}',
        b'ready {"work": "w", "memory": 2000000, "disk": 2000000}',
        b'ready {"work": "/w\\n", "memory": 2000000, "disk": 2000000}',
        b'ready {"work": "/../w/", "memory": 2000000, "disk": 2000000}',
        b'ready {"work": "/w", "memory": true, "disk": 2000000}',
        b'ready {"work": "/w", "memory": 1e9, "disk": 2000000}',
        b'ready {"work": "/w", "memory": -1, "disk": 2000000}',
        b'ready {"work": "/w", "memory": 2000000, "disk": 99999999999999999999999}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_word_of_a_runner(message: bytes) -> None:
    assert room(message) is None


def test_a_runner_says_what_it_has() -> None:
    told = room(b'ready {"work": "/run/work", "memory": 973078528, "disk": 469762048}')
    assert told == Room(Path("/run/work"), 973078528, 469762048)


def split(content: bytes, longest: int, most: int = 1 << 20) -> list[bytes]:
    async def read() -> list[bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        return [line async for line in lines(reader, longest, most)]

    return asyncio.run(read())


def test_lines_are_kept_up_to_a_length_and_in_all_up_to_another() -> None:
    assert split(b"one\n\ntwo\nrest", 10) == [b"one", b"", b"two", b"rest"]
    assert split(b"a" * 10 + b"\n" + b"b" * 11 + b"\nc\n", 10) == [b"a" * 10, OMITTED, b"c"]
    long = b"x" * 200_000  # more than is read at once
    assert split(long + b"\nend", 100_000) == [OMITTED, b"end"]
    assert split(long + b"\nend", 200_000) == [long, b"end"]
    assert split(long, 100_000) == []
    with pytest.raises(TooMuchOutputError):
        split(long, 10, most=199_999)


def test_a_document_that_would_take_much_memory_is_not_read() -> None:
    reader = Reader("opus", keep=1000)
    content = b'{"type":"user","message":{"content":[' + b"{}," * 500_000 + b"{}]}}"
    with pytest.raises(TooMuchKeptError):
        reader.feed(content)
    assert Reader("opus").feed(content) is None
    with pytest.raises(TooMuchKeptError):
        reader.feed(OMITTED)
    # One with a long string that looks like structure is.
    text = ("{[,:" * 500_000).encode()
    said = b'{"type":"user","message":{"content":[{"type":"text","text":"' + text + b'"}]}}'
    assert events._worth(said) < 2 * len(said)
    kept = Reader("opus", keep=8 << 20)
    kept.feed(said)
    assert len(kept._turns) == 1


def test_text_has_an_end_however_it_is_cut() -> None:
    piece = b'{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"%s"}}}'
    begin = b'{"type":"stream_event","event":{"type":"message_start","message":{"model":"' + b"m" * 500 + b'"}}}'
    end = b'{"type":"stream_event","event":{"type":"message_delta","delta":{"stop_reason":"tool_use"}}}'
    reader = Reader("opus")
    with pytest.raises(ApiError) as caught:
        for _ in range(events.MOST_CHARACTERS // 1000 + 2):
            reader.feed(begin)
            reader.feed(piece % (b"x" * 1000))
            reader.feed(end)
    assert caught.value.code == "claude_output_too_large"
    assert reader.model == "opus"
