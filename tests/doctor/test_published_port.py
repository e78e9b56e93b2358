"""What a published port is taken for, by what comes back through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from shipyard import entrance


@pytest.fixture
def answered(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A port that says this to whoever comes; nothing at all for None."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as client:
                if request.param is None:
                    client.recv(65536)
                    client.recv(65536)
                client.sendall(request.param or b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[:2]
    thread.join(10)


def ok_with(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    ("answered", "answers", "words"),
    [
        (ok_with(b'{"status":"ok","instances":1}'), True, "with 1 instance of the API"),
        (ok_with(b'{"status":"ok","instances":0}'), True, "with 0 instances of the API"),
        (ok_with(b"[]"), False, "no answer of the balancer: TypeError"),
        (b"nonsense\r\n\r\n", False, "no answer of the balancer: BadStatusLine"),
        (b"", False, "no answer of the balancer"),
        (None, False, "no answer within 0.3 s"),
    ],
    indirect=["answered"],
)
def test_what_a_published_port_says(answered: tuple[str, int], answers: bool, words: str) -> None:
    found = entrance.probe(answered, 0.3)
    assert found.answers == answers
    assert words in found.seen


def test_a_port_that_nobody_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()[:2]
    assert entrance.probe(where) == entrance.Answer(False, "no answer of the balancer: Connection refused")
