"""Requests that two servers could read in two ways, and what becomes of them: the cases of tests and of docs/gateway.md.

python -m tests.support.framing_cases      prints the table of the page
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PATH = b"/v1/size"
LENGTH = b"content-length: 5"
CHUNKED = b"transfer-encoding: chunked"
BODY = b"12345"
CHUNKS = b"5\r\n12345\r\n0\r\n\r\n"
PAGE = "docs/gateway.md"


@dataclass(frozen=True)
class Row:
    """A line of the table: a kind of request, and the statuses of the service and of the balancer before it.

    0 stands for what is no fault there: the request is answered as if it had been written well.
    """

    kind: str
    service: int
    balancer: int
    cases: dict[str, bytes]


def post(
    *lines: bytes, body: bytes = BODY, first: bytes = b"POST %b HTTP/1.1" % PATH, host: bytes = b"host: x"
) -> bytes:
    """Return a request; `lines` are its headers besides the host, an empty `host` leaves that out."""
    return b"\r\n".join([first, *([host] if host else []), *lines, b"", body])


def target(text: bytes) -> bytes:
    """Return a request with this target."""
    return post(LENGTH, first=b"POST %b HTTP/1.1" % text)


def version(text: bytes, *lines: bytes, body: bytes = BODY) -> bytes:
    """Return a request of this version."""
    return post(*lines or (LENGTH,), body=body, first=b"POST %b %b" % (PATH, text))


def coding(text: bytes) -> bytes:
    """Return a request with this Transfer-Encoding."""
    return post(b"transfer-encoding: " + text, body=CHUNKS)


def chunks(body: bytes) -> bytes:
    """Return a chunked request."""
    return post(CHUNKED, body=body)


TWICE = ("authorization", "content-type", "content-encoding", "x-api-key", "x-request-id", "expect", "origin")

TABLE = (
    Row("HTTP/1.1 without `Host`", 400, 400, {"no host": post(LENGTH, host=b"")}),
    Row("`Host` twice, different", 400, 400, {"two hosts": post(LENGTH, b"host: y")}),
    Row("`Host` twice, the same", 400, 0, {"the same host twice": post(LENGTH, b"Host: x")}),
    Row(
        "`Host` that is empty, a list, or has a user's name",
        400,
        400,
        {
            "empty host": post(LENGTH, host=b"host: "),
            "host with a user": post(LENGTH, host=b"host: a@x"),
            "hosts": post(LENGTH, host=b"host: x, y"),
            "host with a path": post(LENGTH, host=b"host: x/y"),
        },
    ),
    Row(
        "`Authorization`, `Content-Type`, `Content-Encoding`, `X-Api-Key`, `X-Request-Id`, `Expect`, `Origin` "
        "or another header of one meaning twice",
        400,
        400,
        {
            f"two of {name}": post(LENGTH, *(f"{n}: 100-continue".encode() for n in (name, name.title())))
            for name in TWICE
        },
    ),
    Row("`Content-Length` twice, different", 400, 400, {"two lengths": post(LENGTH, b"content-length: 6")}),
    Row(
        "`Content-Length` twice, the same",
        400,
        0,
        {"the same length twice": post(LENGTH, LENGTH), "a list of lengths": post(b"content-length: 5, 5")},
    ),
    Row(
        "`Content-Length` that is no plain number",
        400,
        400,
        {
            f"length {text}": post(b"content-length: " + text.encode())
            for text in ("", "+5", "-5", "0x5", "5 5", "5.0", "99999999999999999999")
        },
    ),
    Row("`Transfer-Encoding` beside `Content-Length`", 400, 0, {"both": post(CHUNKED, LENGTH, body=CHUNKS)}),
    Row(
        "`Transfer-Encoding` that is not exactly `chunked`",
        400,
        400,
        {
            **{
                f"coding {text}": coding(text.encode())
                for text in (
                    "xchunked",
                    "identity",
                    "chunked;q=1",
                    '"chunked"',
                    "chunked, chunked",
                    "",
                )
            },
            "coding twice": post(CHUNKED, CHUNKED, body=CHUNKS),
            "coding with a control character": coding(b"\x0bchunked"),
        },
    ),
    Row("`Transfer-Encoding: gzip, chunked`", 400, 422, {"another coding before": coding(b"gzip, chunked")}),
    Row("`Transfer-Encoding: Chunked`, in other letters", 400, 0, {"coding in capitals": coding(b"Chunked")}),
    Row("`Transfer-Encoding` in HTTP/1.0", 400, 400, {"chunked 1.0": version(b"HTTP/1.0", CHUNKED, body=CHUNKS)}),
    Row(
        "trailers after a chunked body",
        400,
        400,
        {
            "a trailer": chunks(b"5\r\n12345\r\n0\r\nx-a: b\r\n\r\n"),
            "a key as a trailer": chunks(b"5\r\n12345\r\n0\r\nauthorization: Bearer x\r\n\r\n"),
        },
    ),
    Row(
        "a chunk whose length or end is malformed",
        400,
        400,
        {
            "hexadecimal sign": chunks(b"0x5\r\n12345\r\n0\r\n\r\n"),
            "negative chunk": chunks(b"-5\r\n12345\r\n0\r\n\r\n"),
            "chunk too long": chunks(b"5\r\n1234567\r\n0\r\n\r\n"),
            "overflow": chunks(b"10000000000000005\r\n12345\r\n0\r\n\r\n"),
            "underscore": chunks(b"0_5\r\n12345\r\n0\r\n\r\n"),
        },
    ),
    Row(
        "an extension of a chunk that does not end on its line",
        400,
        0,
        {"line end in an extension": chunks(b'5;a="\r\n12345\r\n0\r\n\r\n')},
    ),
    Row("a header folded over two lines", 400, 0, {"fold": post(b"x-a: b\r\n c", LENGTH)}),
    Row("a folded line without a first one", 400, 400, {"fold of the first": post(b" x-a: b", LENGTH, host=b"")}),
    Row(
        "a blank before the colon, or a name of a header that is none",
        400,
        400,
        {
            "blank before the colon": post(b"content-length : 5"),
            "blank in a name": post(b"x y: z", LENGTH),
            "no name": post(b": z", LENGTH),
            "no colon": post(b"xyz", LENGTH),
            "a name with a control character": post(b"x\x01: z", LENGTH),
            "a name beyond ASCII": post(b"x\xff: z", LENGTH),
        },
    ),
    Row(
        "NUL, CR or LF in a value",
        400,
        400,
        {"NUL": post(b"x-a: b\0c", LENGTH), "CR": post(b"x-a: b\rc", LENGTH)},
    ),
    Row(
        "lines that end with LF alone",
        400,
        0,
        {"bare line ends": b"POST %b HTTP/1.1\nhost: x\ncontent-length: 5\n\n12345" % PATH},
    ),
    Row(
        "a target that names another host, a user, or another scheme",
        400,
        400,
        {
            "another host": target(b"http://other" + PATH),
            "a user": target(b"http://u@x" + PATH),
            "another scheme": target(b"ftp://x" + PATH),
        },
    ),
    Row("a target with `#`", 400, 400, {"fragment": target(PATH + b"#a")}),
    Row(
        "a target with control characters, or without `/`",
        400,
        400,
        {"control": target(PATH + b"\x01"), "no slash": target(b"v1/size"), "backslash": target(b"\\v1\\size")},
    ),
    Row(
        "a method in lower case or an unknown one",
        400,
        400,
        {
            "lower case": post(LENGTH, first=b"post %b HTTP/1.1" % PATH),
            "unknown": post(LENGTH, first=b"FOO %b HTTP/1.1" % PATH),
        },
    ),
    Row("`CONNECT`", 400, 405, {"CONNECT": b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n"}),
    Row(
        "a first line without a well written version of HTTP",
        400,
        400,
        {text: version(text.encode()) for text in ("HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/11")},
    ),
    Row("another version of HTTP", 400, 0, {text: version(text.encode()) for text in ("HTTP/1.2", "HTTP/2.0")}),
    Row(
        "`Upgrade` with `Connection: upgrade`",
        400,
        0,
        {"upgrade": post(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk", LENGTH)},
    ),
    Row("`Expect` other than `100-continue`", 400, 400, {"expect": post(b"expect: 200-ok", LENGTH)}),
    Row(
        "more than 100 headers, or a head, extensions of chunks or the like of more than 64 KiB",
        431,
        400,
        {"a large head": post(b"x: " + b"y" * 100_000, LENGTH)},
    ),
)


def cases() -> Iterator[tuple[str, bytes, int, int]]:
    """Yield each case with the status of the service and that of the balancer before it."""
    for row in TABLE:
        for name, request in row.cases.items():
            yield name, request, row.service, row.balancer


def page() -> list[str]:
    """Return the lines of the table in the page."""
    said = {0: "as written well"}
    lines = ["| refused | the service | through the balancer |", "|---|---|---|"]
    return lines + [f"| {row.kind} | {row.service} | {said.get(row.balancer, row.balancer)} |" for row in TABLE]


if __name__ == "__main__":
    print("\n".join(page()))
