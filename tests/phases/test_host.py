"""Phase 1, `invoke host`: the API on the host, everything else in containers."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipyard import processes
from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout, served


@pytest.fixture(scope="module")
def host(copy: Checkout) -> Iterator[Checkout]:
    copy.invoke("host", "--api")
    yield copy


def number(copy: Checkout) -> int:
    """The process of the API, as `invoke status` names it."""
    (found,) = [each["image"] for each in copy.json("status")["services"] if "process" in each["image"]]
    return int(found.split()[1])


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


def test_changed_settings_are_another_process_and_no_request_fails(host: Checkout) -> None:
    """The old one serves until the new one can, and ends the stream that it has."""
    first = number(host)
    assert f"runs on the host already (process {first})" in host.invoke("host", "--api").stderr
    assert number(host) == first
    host.configure(HOST_LOG_LEVEL="debug")
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(host.ask("GET", "/health")[0])

    client = threading.Thread(target=ask)
    client.start()
    try:
        question = paths.chat("max/opus", "[[gap=1]] one two three four five six seven eight", stream=True)
        with host.request("POST", "/v1/chat/completions", question) as response:
            said = host.start("host", "--api")
            events = paths.events(response)
        _, stderr = said.communicate(timeout=120)
    finally:
        done.set()
        client.join()
    assert said.returncode == 0, stderr
    assert "beside the old one on the host: LOG_LEVEL changed" in stderr
    assert events[-1][1] == "[DONE]"
    assert set(answers) == {200}
    assert number(host) != first
    assert processes.started(first) is None
    environment = Path(f"/proc/{number(host)}/environ").read_bytes().split(b"\0")
    assert b"LOG_LEVEL=debug" in environment
    paths.healthy(host)


def test_a_new_one_that_cannot_start_leaves_the_old_one(host: Checkout) -> None:
    first = number(host)
    settings = (host.root / ".env").read_text()
    host.configure(HOST_LOG_LEVEL="loud")
    refused = host.invoke("host", "--api", status=10)
    (host.root / ".env").write_text(settings)
    assert "LOG_LEVEL" in refused.stderr
    assert number(host) == first
    paths.healthy(host)


def test_a_gpu_that_is_demanded_and_not_there_ends_the_start(host: Checkout, tmp_path: Path) -> None:
    settings = (host.root / ".env").read_text()
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    host.configure(HOST_REQUIRE_GPU="true", HOST_LLM_CALL_LLAMA_SERVER=str(program))
    refused = host.invoke("host", "--api", status=3)
    assert f".env: HOST_LLM_CALL_LLAMA_SERVER: {program} is not executable" in refused.stderr
    program.chmod(0o755)
    refused = host.invoke("host", "--api", status=10)
    (host.root / ".env").write_text(settings)
    assert "REQUIRE_GPU" in refused.stderr
    paths.healthy(host)


def test_a_crashed_api_is_started_again(host: Checkout) -> None:
    os.kill(number(host), signal.SIGKILL)
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
