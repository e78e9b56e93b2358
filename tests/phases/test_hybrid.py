"""Phase 2, `invoke hybrid`: everything in containers, with debug access kept."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from shipyard.models import LABEL_REFERENCE
from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout, served


@pytest.fixture(scope="module")
def hybrid(copy: Checkout) -> Iterator[Checkout]:
    copy.invoke("hybrid")
    yield copy


@pytest.mark.parametrize("path", paths.EVERY)
def test_every_path(hybrid: Checkout, path: paths.Path) -> None:
    path(hybrid)


def test_a_debugger_may_attach(hybrid: Checkout) -> None:
    wait_until(lambda: paths.debugger_answers(hybrid), "the debugger's answer", 20)


def test_redis_and_the_proxy_are_on_loopback(hybrid: Checkout) -> None:
    with socket.create_connection(("127.0.0.1", hybrid.ports["REDIS_PORT"]), timeout=10) as redis:
        redis.sendall(b"PING\r\n")
        assert redis.recv(64).startswith(b"-NOAUTH")
    assert served(hybrid.ports["CLAUDE_PROXY_PORT"])
    found = hybrid.json("status")
    assert (found["overlay"], found["phase"]) == ("hybrid", "phase 2")
    bound = [port for each in found["services"] for port in each["ports"].split()]
    assert all(port.startswith("127.0.0.1:") for port in bound)


def test_debug_image_and_debug_logs(hybrid: Checkout) -> None:
    (found,) = json.loads(hybrid.docker("inspect", hybrid.container("llm-call-api")))
    assert found["Config"]["Labels"][LABEL_REFERENCE].endswith("-debug")
    assert "LOG_LEVEL=debug" in found["Config"]["Env"]
    assert '"/health/accepting"' in hybrid.invoke("logs", "--service", "llm-call-api").stdout  # told at debug alone


def test_what_is_for_a_person_is_not_for_the_agents(hybrid: Checkout) -> None:
    """The forwarded ports, and the debugger, are out of reach for what the proxy runs, even without its sandbox."""
    for host, port in (("debug-ports", 6379), ("debug-ports", 5678), ("debug-ports", 3010), ("llm-call-api", 5678)):
        assert paths.reach(hybrid, "claude-proxy", host, port) != "connected", (host, port)
    assert paths.reach(hybrid, "claude-proxy", "llm-call-api", 8001) == "connected"


def test_down_leaves_nothing(hybrid: Checkout) -> None:
    hybrid.invoke("down")
    paths.nothing_left(hybrid)
