"""Requests that two servers could read in two ways are refused: each alone, on a real connection that is closed then."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.test_limits import connected, small
from tests.support.framing_cases import BODY, CHUNKS, LENGTH, PAGE, PATH, cases, chunks, page, post, target, version
from tests.support.service import ROOT, Service

GOOD = {
    "a length": post(LENGTH),
    "chunks": chunks(CHUNKS),
    "an extension of a chunk": chunks(b"5;a=b\r\n12345\r\n0\r\n\r\n"),
    "HTTP/1.0 without a host": version(b"HTTP/1.0").replace(b"host: x\r\n", b""),
    "a host with a port": post(LENGTH, host=b"host: a_b.example:8001"),
    "an IPv6 host": post(LENGTH, host=b"host: [::1]:8001"),
    "its own absolute target": target(b"http://X" + PATH),
    "headers of many values": post(LENGTH, b"accept: a", b"accept: b", b"cookie: c", b"cookie: d", b"te: trailers"),
    "letters beyond ASCII": post(LENGTH, b"x-a: \xc3\xa9"),
    "empty lines before it": b"\r\n\r\n" + post(LENGTH),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with small() as service:
        yield service


def statuses(service: Service, sent: bytes) -> tuple[list[int], bytes]:
    """Send bytes, then nothing more; return the statuses of all answers, and all that came."""
    with connected(service) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        came = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(each) for each in re.findall(rb"^HTTP/1\.1 (\d+)", came, re.MULTILINE)], came


@pytest.mark.parametrize(("sent", "status"), [pytest.param(sent, status, id=name) for name, sent, status, _ in cases()])
def test_what_could_be_read_in_two_ways_is_refused(service: Service, sent: bytes, status: int) -> None:
    """With a second request behind it, which nobody answers."""
    found, came = statuses(service, sent + post(LENGTH))
    assert found == [status], came
    head, _, body = came.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)
    assert error["code"] == ("invalid_http" if status == 400 else "headers_too_large")


@pytest.mark.parametrize("sent", GOOD.values(), ids=GOOD)
def test_what_can_be_read_in_one_way_is_served(service: Service, sent: bytes) -> None:
    found, came = statuses(service, sent)
    assert found == [200]
    assert came.endswith(b"%d" % len(BODY))


def test_the_page_has_the_table() -> None:
    text = (Path(ROOT) / PAGE).read_text()
    assert "\n".join(page()) in text
