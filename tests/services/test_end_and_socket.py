"""How a service ends for those who ask it directly or through a load balancer, and how it listens at a path."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import probe
from tests.support.service import READY, ROOT, Service, running, wait_until

MODELS = """
[upstream.nobody]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
[model."n/*"]
upstream = "nobody"
"""
AT_SOCKET = r'"message":"ready".*"address":"unix:[^"]*","pid":(\d+)'


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: a socket's path has a limit of 107 bytes
        (Path(name) / "models.toml").write_text(MODELS)
        yield Path(name)


@contextlib.contextmanager
def api(folder: Path, *arguments: str, ready: str = READY, **env: str) -> Iterator[Service]:
    settings = {"LLM_CALL_MODELS": str(folder / "models.toml"), "DRAIN_SECONDS": "20", **env}
    with running(["-m", "llm_call.api", "--port", "0", *arguments], ready, settings) as service:
        yield service


@contextlib.contextmanager
def at_socket(folder: Path, *arguments: str, **env: str) -> Iterator[tuple[Service, Path]]:
    path = folder / "api.sock"
    with api(folder, "--socket", str(path), *arguments, ready=AT_SOCKET, **env) as service:
        yield service, path


class Kept:
    """A connection that a client keeps open from one request to the next."""

    def __init__(self, connection: socket.socket) -> None:
        self.client = http.client.HTTPConnection("x")
        self.client.sock = connection

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str) -> tuple[int, Any, str | None]:
        """Return status, document and what is said of the connection."""
        self.client.request("GET", path)
        response = self.client.getresponse()
        return response.status, json.loads(response.read()), response.headers["connection"]

    def is_closed(self) -> bool:
        return self.client.sock is None or self.client.sock.recv(1) == b""


def kept(service: Service) -> Kept:
    return Kept(socket.create_connection(("127.0.0.1", service.port), 10))


def at(path: Path) -> Kept:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(path))
    return Kept(connection)


def test_from_the_signal_on_a_balancer_is_told_and_new_requests_are_served_for_the_notice(folder: Path) -> None:
    with api(folder, DRAIN_NOTICE_SECONDS="1.2") as service, kept(service) as idle, kept(service) as asking:
        assert service.get("/health/accepting") == (200, {"status": "accepting"})
        assert idle.get("/v1/models")[0] == asking.get("/v1/models")[0] == 200
        told = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.get("/health/accepting") == (404, {"status": "draining"}), "the end to be told", 0.5)
        assert service.get("/v1/models")[0] == 200, "on a new connection"
        status, _, connection = asking.get("/v1/models")
        assert (status, connection) == (200, "close"), "on a kept one, which ends with this answer"
        assert idle.is_closed()
        assert time.monotonic() - told > 1.0, "an idle connection may be used during the notice"
        assert service.process.wait(5) == 0
        assert time.monotonic() - told < 2.5


def test_no_request_fails_while_a_balancer_takes_notice(folder: Path) -> None:
    with api(folder, DRAIN_NOTICE_SECONDS="0.8") as service:
        answers: list[int] = []
        accepting = threading.Event()
        accepting.set()

        def ask() -> None:
            while accepting.is_set():
                answers.append(service.get("/v1/models")[0])

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        wait_until(lambda: len(answers) > 20, "requests")
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.get("/health/accepting")[0] == 404, "the end to be told", 0.5)
        accepting.clear()
        for client in clients:
            client.join()
        assert set(answers) == {200}
        assert service.process.wait(5) == 0


def test_no_notice_is_taken_beyond_the_drain_time(folder: Path) -> None:
    with api(folder, DRAIN_NOTICE_SECONDS="30", DRAIN_SECONDS="0.2") as service:
        assert service.stop(signal.SIGTERM, 3) == 0


def test_health_checks_of_a_balancer_fill_no_log(folder: Path) -> None:
    with api(folder) as service:
        assert service.get("/health/accepting")[0] == 200
        service.get("/health/live")
        wait_until(lambda: service.find('"path":"/health/live"'), "the line of another request")
        assert "/health/accepting" not in service.output
    with api(folder, LOG_LEVEL="debug") as service:
        service.get("/health/accepting")
        wait_until(lambda: service.find('"path":"/health/accepting"'), "the line at the level debug")


def test_a_service_listens_at_a_path_that_everyone_of_the_folder_may_use(folder: Path) -> None:
    with at_socket(folder) as (service, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with at(path) as client:
            assert client.get("/health/accepting")[0] == 200
            assert client.get("/v1/models")[1]["data"], "no keys are needed, as on loopback"
        assert probe.check(f"unix:{path}:/health/live") is None
        assert "no API keys" in service.output
        assert service.stop() == 0
        assert not path.exists()


def test_the_path_may_come_from_the_environment_and_keys_still_count(folder: Path) -> None:
    path = folder / "api.sock"
    (folder / "keys").write_text(f"k:{hashlib.sha256(b'key').hexdigest()}\n")
    env = {"LLM_CALL_SOCKET": str(path), "LLM_CALL_KEYS_FILE": str(folder / "keys")}
    with api(folder, "--host", "0.0.0.0", ready=AT_SOCKET, **env), at(path) as client:
        assert client.get("/v1/models")[0] == 401


def test_what_a_killed_service_left_is_replaced(folder: Path) -> None:
    with at_socket(folder) as (service, path):
        service.stop(signal.SIGKILL)
        assert path.is_socket()
        with at_socket(folder) as (_, again), at(again) as client:
            assert client.get("/health/live")[0] == 200


def test_a_living_service_keeps_its_path_and_is_named(folder: Path) -> None:
    with at_socket(folder) as (service, path):
        name = Path(f"/proc/{service.process.pid}/comm").read_text().strip()
        code, lines = start(folder, "--socket", str(path))
        assert code == 1
        assert lines == [
            f"llm-call-api: {path}: process {service.process.pid} ({name}) listens there; "
            "stop it or choose another path with --socket"
        ]
        with at(path) as client:
            assert client.get("/health/live")[0] == 200


def test_the_path_of_another_is_not_removed(folder: Path) -> None:
    with at_socket(folder) as (service, path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            assert service.stop() == 0
            assert path.is_socket()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 200, "too long for a unix socket, the most are 107 bytes"),
        ("none/api.sock", "there is no folder {folder}/none; make it"),
        ("models.toml", "is there and no socket; move it away"),
        ("models.toml/api.sock", "there is no folder {folder}/models.toml"),
        ("link", "is there and no socket"),
    ],
)
def test_an_impossible_path_is_one_line(folder: Path, name: str, reason: str) -> None:
    (folder / "link").symlink_to("nowhere")
    code, lines = start(folder, "--socket", str(folder / name))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"llm-call-api: {folder / name}: {reason.format(folder=folder)}")
    assert (folder / "models.toml").read_text() == MODELS


def test_hot_reload_works_at_a_path(folder: Path) -> None:
    with at_socket(folder, "--reload") as (service, path):
        worker = int(service.find(AT_SOCKET)[1])  # type: ignore[index]  # it is there, or this had not started
        os.kill(worker, signal.SIGTERM)  # closes the socket, as after a handover; its file stays
        wait_until(lambda: service.output.count('"message":"ready"') == 2, "another worker")
        with at(path) as client:
            assert client.get("/health/accepting")[0] == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(5) == 0
        assert not path.exists()


def start(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the service where it is to refuse; return the exit code and the lines on stderr."""
    env = {"PYTHONPATH": str(ROOT / "src"), "LLM_CALL_MODELS": str(folder / "models.toml")}
    command = [sys.executable, "-m", "llm_call.api", *arguments]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr.splitlines()
