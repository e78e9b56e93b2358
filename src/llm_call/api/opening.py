"""The beginning of an upstream's stream: comments are no answer yet, and an error as its first event is no stream."""

from __future__ import annotations

import re

import orjson

from llm_call.api.upstreams import Content

HELD_BYTES = 64 * 1024
"""The most of comments, or of a first event that may be an error, that is waited for."""
COMMENTS = re.compile(rb"(?:(?::[^\r\n]*)?(?:\r\n|\r|\n))*")
ERROR = re.compile(rb'data: ?\{\s*"error"')
DATA = re.compile(rb"data: ?([^\r\n]*)[\r\n]")
UNKNOWN = 502
"""The status of an error that does not tell its own."""


async def first(content: Content) -> bytes:
    """Return the first bytes that tell something, with the comments before them; none if nothing comes.

    Raises what aiohttp raises.
    """
    got = b""
    while chunk := await content.readany():
        got += chunk
        if _tells(got) or len(got) > HELD_BYTES:
            return got
    return got if _rest(got) else b""


def failure(beginning: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body of the error that a stream begins with, or None."""
    rest = _rest(beginning)
    found = DATA.match(rest) if ERROR.match(rest) else None
    if not found:
        return None
    try:
        error = orjson.loads(found[1])["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    told = [error.get(name) for name in ("status", "code")] if isinstance(error, dict) else []
    status = next((each for each in told if type(each) is int and 400 <= each < 600), UNKNOWN)
    return status, bytes(found[1])


def _rest(got: bytes) -> bytes:
    """Return what follows the comments; a comment that is not whole yet is none."""
    found = COMMENTS.match(got)
    rest = got[found.end() :] if found else got
    return b"" if rest.startswith(b":") else rest


def _tells(got: bytes) -> bool:
    rest = _rest(got)
    # Of what may be an error the whole line is needed.
    return bool(rest) and (not ERROR.match(rest) or bool(DATA.match(rest)))
