"""The head of a request, read strictly: one meaning, or none. Whatever the CLI would not send is refused.

There is no lenient reading here, so nothing that two parsers could understand differently goes on to the provider.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from claude_proxy.gate.refusal import Refusal, malformed

END = b"\r\n\r\n"
LARGEST = 16 * 1024
"""In bytes, with the request line; the CLI's own head has about 1 KiB."""
MOST_HEADERS = 64
LARGEST_BODY = 32 * 1024 * 1024
"""In bytes: the Messages API's own limit."""

REQUEST = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,2048}) HTTP/1\.1")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):([\t -~\x80-\xff]*)")
LENGTH = re.compile(rb"[0-9]{1,9}")
TOKEN = re.compile(rb"[A-Za-z0-9_-]{1,256}")
TARGETS = {
    path + query: path for path in (b"/v1/messages", b"/v1/messages/count_tokens") for query in (b"", b"?beta=true")
}
"""By the whole target, compared byte by byte: the path that it stands for."""
ONCE = (
    b"host",
    b"content-length",
    b"content-type",
    b"x-api-key",
    b"authorization",
    b"connection",
    b"anthropic-version",
)
NEVER = (b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"te", b"content-encoding", b"proxy-authorization")
PASSED = re.compile(
    rb"accept|user-agent|x-app|anthropic-(version|beta|dangerous-direct-browser-access)|x-client-request-id"
    rb"|x-claude-code-[a-z0-9-]+|x-stainless-[a-z0-9-]+"
)
"""The header fields that go on to the provider; all others stay here."""
LONG_CONTEXT = b"context-1m"
"""The entry of anthropic-beta, without its date, that a model with [1m] needs, and which costs more."""


@dataclass(frozen=True)
class Head:
    """What matters of a request's head. `target` is path and query, `headers` those that are passed on."""

    path: bytes
    target: bytes
    length: int
    token: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    last: bool

    def onward(self, *, long_context: bool) -> list[tuple[bytes, bytes]]:
        """Return the header fields for the provider, without the longer context where the model has none."""
        found = []
        for name, value in self.headers:
            kept = value
            if name == b"anthropic-beta" and not long_context:
                entries = [each.strip() for each in value.split(b",")]
                kept = b",".join(each for each in entries if not each.lower().startswith(LONG_CONTEXT))
            if kept:
                found.append((name, kept))
        return found


def read(raw: bytes) -> Head:
    """Return the head in `raw`, which ends with an empty line; raises Refusal."""
    if len(raw) > LARGEST:
        raise Refusal(431, "malformed", f"the head of a request has at most {LARGEST // 1024} KiB")
    first, *lines = raw[: -len(END)].split(b"\r\n")
    if len(lines) > MOST_HEADERS:
        raise Refusal(431, "malformed", f"a request has at most {MOST_HEADERS} header fields")
    request = REQUEST.fullmatch(first)
    if not request:
        raise malformed(what="the first line is not METHOD TARGET HTTP/1.1")
    headers = _headers(lines)
    token = _token(headers)
    path = TARGETS.get(request[2])
    if request[1] != b"POST" or path is None:
        raise Refusal(403, "path", "the gate passes POST /v1/messages and POST /v1/messages/count_tokens, nothing else")
    for name in NEVER:
        if name in headers:
            raise Refusal(
                411, "malformed", f"send the body as it is, with one Content-Length and without {name.decode()}"
            )
    kind = _one(headers, b"content-type").lower().replace(b" ", b"")
    if kind not in (b"application/json", b"application/json;charset=utf-8"):
        raise Refusal(415, "malformed", "the content type of a request is application/json")
    return Head(
        path=path,
        target=request[2],
        length=_length(headers),
        token=token,
        headers=tuple((name, value) for name, values in headers.items() if PASSED.fullmatch(name) for value in values),
        last=b"close" in _one(headers, b"connection").lower(),
    )


def _headers(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        if not match:
            raise malformed(what="a header field is not NAME: VALUE on one line")
        found.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
    for name in ONCE:
        if len(found.get(name, ())) > 1:
            raise malformed(what=f"it has {name.decode()} more than once")
    if not _one(found, b"host"):
        raise malformed(what="it has no Host")
    return found


def _one(headers: dict[bytes, list[bytes]], name: bytes) -> bytes:
    return headers.get(name, [b""])[0]


def _length(headers: dict[bytes, list[bytes]]) -> int:
    text = _one(headers, b"content-length")
    if not LENGTH.fullmatch(text):
        raise Refusal(411, "malformed", "send the body with one Content-Length, in decimal digits")
    if int(text) > LARGEST_BODY:
        raise Refusal(413, "too_large", f"a request has at most {LARGEST_BODY >> 20} MiB")
    return int(text)


def _token(headers: dict[bytes, list[bytes]]) -> bytes:
    """Return what the request shows for a key; empty where it shows none, or two."""
    key, bearer = _one(headers, b"x-api-key"), _one(headers, b"authorization")
    if bearer:
        scheme, _, value = bearer.partition(b" ")
        bearer = value if scheme.lower() == b"bearer" else b"?"
    shown = bearer if not key else key if not bearer else b"?"
    return shown if TOKEN.fullmatch(shown) else b""
