"""`invoke dev`: everything reachable, and a saved file is served without a restart."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout


@pytest.fixture(scope="module")
def dev(copy: Checkout) -> Iterator[Checkout]:
    with (copy.root / ".env").open("a") as settings:
        settings.write("LLM_CALL_DEBUGGER=5678\n")
    copy.invoke("dev", "--detach")
    yield copy


@pytest.mark.parametrize("path", paths.EVERY)
def test_every_path(dev: Checkout, path: paths.Path) -> None:
    path(dev)


def test_a_changed_line_is_served_without_a_restart(dev: Checkout) -> None:
    """While a stream is open: it runs to its end in the old code."""
    started = dev.started("llm-call-api")
    source = dev.root / "src/llm_call/api/models.py"
    text = source.read_text()
    assert text.count('"object": "list"') == 1
    question = paths.chat("max/opus", "[[gap=0.5]] one two three four five six", stream=True)
    with dev.request("POST", "/v1/chat/completions", question) as response:
        assert response.status == 200
        source.write_text(text.replace('"object": "list"', '"object": "changed"'))
        wait_until(lambda: dev.ask("GET", "/v1/models")[1]["object"] == "changed", "the new code", 10)
        assert paths.events(response)[-1][1] == "[DONE]"
    source.write_text(text)
    wait_until(lambda: dev.ask("GET", "/v1/models")[1]["object"] == "list", "the old code", 10)
    assert dev.started("llm-call-api") == started


def test_every_port_is_published_on_loopback(dev: Checkout) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dev.ports["CLAUDE_PROXY_PORT"], timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    connection.close()
    with socket.create_connection(("127.0.0.1", dev.ports["REDIS_PORT"]), timeout=10) as redis:
        redis.sendall(b"PING\r\n")
        assert redis.recv(64).startswith(b"-NOAUTH")
    bound = {each["ports"] for each in dev.json("status")["services"] if each["ports"]}
    assert bound
    assert all(part.startswith("127.0.0.1:") for ports in bound for part in ports.split())


def test_a_debugger_may_attach(dev: Checkout) -> None:
    wait_until(lambda: paths.debugger_answers(dev), "the debugger's answer", 20)


def test_status_names_what_runs(dev: Checkout) -> None:
    found = dev.json("status")
    assert found["overlay"] == "dev"
    health = {each["service"]: (each["state"], each["health"]) for each in found["services"]}
    assert {"llm-call-api", "claude-proxy", "redis"} <= set(health)
    assert set(health.values()) == {("running", "healthy")}


def test_logs_of_an_unknown_service(dev: Checkout) -> None:
    refused = dev.invoke("logs", "--service", "rediss", status=4)
    assert 'perhaps you meant "redis"' in refused.stderr
    assert dev.invoke("logs", "--service", "redis").stdout


def test_a_taken_port_is_named_and_nothing_is_half_started(dev: Checkout) -> None:
    dev.invoke("down")
    with socket.create_server(("127.0.0.1", dev.ports["CLAUDE_PROXY_PORT"])):
        refused = dev.invoke("dev", "--detach", status=9)
    assert f"127.0.0.1:{dev.ports['CLAUDE_PROXY_PORT']} (debug-ports) is in use by process" in refused.stderr
    assert "CLAUDE_PROXY_PORT" in refused.stderr
    assert dev.json("status")["services"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_ctrl_c_stops_everything(dev: Checkout, number: signal.Signals) -> None:
    process = dev.start("dev")
    try:
        assert process.stderr
        assert process.stdout
        said = [next(process.stderr)]
        while "following the logs" not in said[-1]:
            said.append(next(process.stderr))
        while '"logger"' not in next(process.stdout):
            pass  # the services' logs are streamed, whichever comes first
        os.killpg(process.pid, number)  # as a terminal does: to the whole group
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, [*said, stderr]
    assert dev.json("status")["services"] == []


def test_ctrl_c_while_starting_takes_everything_down(dev: Checkout) -> None:
    process = dev.start("dev")
    try:
        assert process.stderr
        said = [next(process.stderr)]
        while "starting the dev stack" not in said[-1]:
            said.append(next(process.stderr))
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, [*said, stderr]
    assert stderr.splitlines()[-1] == "error: interrupted"
    assert dev.json("status")["services"] == []
