"""Engines that no machine of the tests can run: an old one, one without limits. A double says of itself what they say."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import shipyard
from shipyard.engine import api
from tests.doctor.conftest import Machine


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.server.answers.get(self.path)  # type: ignore[attr-defined]
        body = json.dumps(found or {}).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def answering(place: Path, answers: Mapping[str, Any]) -> Iterator[str]:
    """An engine's socket that answers these questions, and 404 to all others."""
    with socketserver.ThreadingUnixStreamServer(str(place), _Handler) as server:
        server.answers = answers  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"unix://{place}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def info() -> dict[str, Any]:
    """What the engine of this machine says of itself."""
    found: dict[str, Any] = api.get(shipyard.engine.find().host, "/info")
    return found


def test_an_old_engine(machine: Machine, info: dict[str, Any]) -> None:
    said = {**info, "DriverStatus": [["Backing Filesystem", "extfs"]]}
    with answering(machine.home / "d.sock", {"/version": {"Version": "26.1.5"}, "/info": said}) as host:
        machine.variables["DOCKER_HOST"] = host
        found = machine.examined(status=24)
    assert found.failed() == {"image store", "isolated bridges"}
    assert found.state("engine") == "warn"
    assert "reach this machine" in found.seen("isolated bridges")
    assert "containerd-snapshotter" in found.mend("image store")


def test_a_machine_whose_kernel_keeps_no_limits_and_whose_clock_is_wrong(
    machine: Machine, info: dict[str, Any]
) -> None:
    said = {**info, "MemoryLimit": False, "SystemTime": "2020-01-01T00:00:00.123456789Z"}
    said["SecurityOptions"] = ["name=seccomp,profile=unconfined"]
    with answering(machine.home / "d.sock", {"/version": {"Version": "28.5.2"}, "/info": said}) as host:
        machine.variables["DOCKER_HOST"] = host
        found = machine.examined(status=24)
    assert found.failed() == {"resource limits", "kernel", "clock"}
    assert "no limits of memory" in found.seen("resource limits")
    assert "seccomp" in found.seen("kernel")
    assert "the engine's clock differs by -" in found.seen("clock")


def test_an_engine_on_another_machine(machine: Machine, info: dict[str, Any]) -> None:
    said = {**info, "KernelVersion": "5.4.0-generic", "DockerRootDir": "/nowhere"}
    with answering(machine.home / "d.sock", {"/version": {"Version": "28.5.2"}, "/info": said}) as host:
        machine.variables["DOCKER_HOST"] = host
        found = machine.examined(status=24)
    assert found.failed() == {"kernel"}
    assert "Linux 5.4.0-generic is too old for Landlock" in found.seen("kernel")
    assert found.seen("GPU device") == "the engine does not run on this machine"
