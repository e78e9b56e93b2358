"""Phase 1, `invoke host`: the API on the host, everything else in containers."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout, served


@pytest.fixture(scope="module")
def host(copy: Checkout) -> Iterator[Checkout]:
    copy.invoke("host", "--api")
    yield copy


def test_without_the_api_the_balancer_says_what_is_missing(copy: Checkout) -> None:
    said = copy.invoke("host").stderr
    assert "python -m llm_call.api" in said
    status, body, _ = copy.ask("GET", "/health")
    assert (status, body["error"]["code"]) == (503, "no_instance")


def test_a_person_may_start_it(copy: Checkout) -> None:
    """As the command says: the file is read by a shell, the module is run."""
    line = f"set -a; . .shipyard/host.env; set +a; exec {shlex.quote(sys.executable)} -m llm_call.api"
    process = subprocess.Popen(["sh", "-c", line], cwd=copy.root, env=copy.environment(), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: copy.ask("GET", "/health")[0] == 200, "the API")
        assert "runs on the host already" in copy.invoke("host", "--api").stderr
    finally:
        process.terminate()
        process.wait(30)
    wait_until(lambda: copy.ask("GET", "/health")[0] == 503, "its end")


@pytest.mark.parametrize("path", paths.EVERY)
def test_every_path(host: Checkout, path: paths.Path) -> None:
    path(host)


def test_status_names_the_process(host: Checkout) -> None:
    assert "process" in host.invoke("status").stdout
    found = host.json("status")
    assert (found["overlay"], found["phase"]) == ("host", "phase 1")
    services = {each["service"]: each for each in found["services"]}
    assert services["llm-call-api"]["image"].startswith("process ")
    bound = [port for each in found["services"] for port in each.get("ports", "").split()]
    assert len(bound) >= 4
    assert all(port.startswith("127.0.0.1:") for port in bound)


def test_redis_and_the_proxy_are_there_for_it_and_ask_for_a_password(host: Checkout) -> None:
    with socket.create_connection(("127.0.0.1", host.ports["REDIS_PORT"]), timeout=10) as redis:
        redis.sendall(b"PING\r\n")
        assert redis.recv(64).startswith(b"-NOAUTH")
    assert served(host.ports["CLAUDE_PROXY_PORT"])


def test_its_environment_holds_no_secret(host: Checkout) -> None:
    values = [path.read_text().strip() for path in (host.root / "secrets/api").iterdir()]
    text = (host.root / ".shipyard/host.env").read_text()
    assert [value for value in values if value and value in text] == []


def test_a_crashed_api_is_started_again(host: Checkout) -> None:
    (number,) = [each["image"] for each in host.json("status")["services"] if "process" in each["image"]]
    os.kill(int(number.split()[1]), signal.SIGKILL)
    wait_until(lambda: host.ask("GET", "/health")[0] == 503, "its end")
    host.invoke("host", "--api")
    paths.healthy(host)


def test_an_api_that_cannot_start_is_told_and_nothing_is_left(host: Checkout) -> None:
    host.invoke("down")
    models = host.root / "config/models.toml"
    text = models.read_text()
    models.write_text(text + '\n[model."x"]\nupstream = "nowhere"\n')
    try:
        refused = host.invoke("host", "--api", status=10)
    finally:
        models.write_text(text)
    assert "nowhere" in refused.stderr
    assert host.json("status")["services"] == []


def test_down_leaves_nothing(host: Checkout) -> None:
    host.invoke("host", "--api")
    host.invoke("down")
    paths.nothing_left(host)
