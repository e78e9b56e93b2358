"""Reads a request's body and the JSON object in it, with OpenAI-shaped errors for whatever is wrong."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect

from serving import memory, strict_json
from serving.asgi import Receive, Scope, header
from serving.errors import ApiError
from serving.strict_json import ANY, Document, Names, StrictJsonError

LARGE_BYTES = 256 * 1024
"""From this size on a body is parsed in a thread, so that nobody else waits for it."""
CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})
"""What a body may be written in. RFC 8259 knows only the first; the last is a part of it."""


class ClientGone(ClientDisconnect):
    """The client closed its connection: nobody waits for an answer any more."""


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes. Raises ApiError 413, 415 or 503, and ClientGone."""
    _check_kind(scope)
    declared = header(scope, b"content-length")
    length = int(declared) if declared and declared.isdigit() else 0
    if length > limit:
        raise _too_large(limit)
    if length > memory.SMALL_BYTES:
        memory.hold(scope, length)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        first: bytes = message.get("body", b"")
        if len(first) > limit:
            raise _too_large(limit)
        return first
    chunks = []
    size = 0
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if not length:
            memory.hold(scope, len(chunk))
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise ClientGone


async def document(scope: Scope, receive: Receive, limit: int, names: Names = ANY) -> Document:
    """Return the JSON object in the body; see `read` and `parse`."""
    raw = await read(scope, receive, limit)
    if len(raw) > LARGE_BYTES:
        return await asyncio.to_thread(parse, raw, names)
    return parse(raw, names)


def parse(raw: bytes, names: Names = ANY) -> Document:
    """Return the JSON object in `raw`, read strictly; `names` are those that the service acts on.

    Raises ApiError 400, which names the member at fault, or 413.
    """
    memory.check_values(raw)
    try:
        return strict_json.read(raw, names)
    except StrictJsonError as error:
        raise ApiError(400, error.message, code="invalid_json", param=error.member or None) from error


def _check_kind(scope: Scope) -> None:
    """Raise ApiError 415 for what is not JSON in UTF-8, as it is."""
    kind = header(scope, b"content-type")
    if kind and kind != b"application/json":
        if not _is_json(kind):
            raise _not_json()
        _check_charset(kind)
    coding = header(scope, b"content-encoding")
    if coding is not None and coding.strip().lower() != b"identity":
        message = 'The header "content-encoding" names a coding that is not read here; send the body as it is.'
        raise ApiError(415, message, code="unsupported_media_type")


def _check_charset(kind: bytes) -> None:
    for parameter in kind.split(b";")[1:]:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"charset" and value.strip(b' \t"').lower() not in CHARSETS:
            message = 'The content type names a charset that is not read here; send "application/json" in UTF-8.'
            raise ApiError(415, message, code="unsupported_media_type")


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or media.endswith(b"+json")


def _not_json() -> ApiError:
    # A browser lets any page send other types anywhere, without asking first.
    message = 'The content type is not JSON; send the header "Content-Type: application/json".'
    return ApiError(415, message, code="unsupported_media_type")


def _too_large(limit: int) -> ApiError:
    # The server passes over the rest of the body. If it closed the connection, the client would see a reset, not this.
    return ApiError(413, f"The body exceeds {limit} bytes; send less.", code="request_too_large")
