"""What a request's head must not hold, so that everyone on its way sees the same request: one place for both services.

The parser (llhttp) refuses what is malformed by itself: blanks before a colon, folded lines, control characters, bare line
ends, lengths that are no numbers, Transfer-Encoding beside Content-Length, methods in lower case. What it lets pass
although two readers could differ is refused here. docs/gateway.md has the table; tests/support/framing_cases.py the cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SINGLE = frozenset(
    {b"host", b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"content-length", b"content-type"}
    | {b"content-encoding", b"transfer-encoding", b"expect", b"origin", b"upgrade", b"x-request-id"}
    | {b"x-llm-call-client", b"x-llm-call-scope", b"x-llm-call-tools", b"x-llm-call-mcp", b"idempotency-key"}
)
"""Headers of which there is one meaning only: twice, the one reader takes the first and the other the last."""
HOST = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""A name or an address, and perhaps a port (RFC 3986, 3.2.2); never a user's name."""
ABSOLUTE = re.compile(rb"https?://([^/?#]*)(?:[/?].*)?", re.IGNORECASE)
CHUNK_BYTES = 24
"""What a chunk may take besides its content: 16 digits of its length, and the line ends. More, such as extensions, counts."""


def fault(version: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], upgrades: bool) -> str:
    """Return what is wrong with a request's head, empty if nothing is. Names of `headers` are in lower case.

    `target` is the request target as it came; `upgrades`: the client asks for another protocol on this connection.
    """
    single: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in SINGLE:
            if name in single:
                return f"The header {name.decode()} stands twice; send it once."
            single[name] = value
    if version not in ("1.1", "1.0"):
        return "This is not HTTP/1.1."
    return _body_fault(version, single) or _target_fault(version, target, single.get(b"host"), upgrades)


def _body_fault(version: str, single: dict[bytes, bytes]) -> str:
    coding = single.get(b"transfer-encoding")
    if coding is not None and (coding != b"chunked" or version == "1.0"):
        return 'The header transfer-encoding is not "chunked", or the request is one of HTTP/1.0.'
    if single.get(b"expect", b"100-continue").lower() != b"100-continue":
        return 'The header expect knows "100-continue" only.'
    return ""


def _target_fault(version: str, target: bytes, host: bytes | None, upgrades: bool) -> str:
    if host is None and version == "1.1":
        return "The header host is missing."
    if host is not None and not HOST.fullmatch(host):
        return "The header host is not of the form NAME or NAME:PORT."
    if upgrades:
        return "No other protocol is offered here; leave out the header upgrade."
    if b"#" in target:
        return "The request's target holds a #."
    if not target.startswith(b"/") and target != b"*":
        named = ABSOLUTE.fullmatch(target)
        if not named or (host is not None and named[1].lower() != host.lower()) or not HOST.fullmatch(named[1]):
            return "The request's target names another host than the header host."
    return ""
