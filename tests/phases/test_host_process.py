"""The API as a process of the host: left alone while it is the same, exchanged beside itself when it is another one.

Its own start and end are real; what is behind the socket is a few lines. tests/phases/test_host.py has the real API.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipyard import config, host_api, host_started
from shipyard.errors import StackFailed
from shipyard.models import Project
from tests.support.service import wait_until
from tests.support.stack import ROOT

#: An API of a few lines: it answers with its number and a variable, and says nothing of its end until its requests are done.
API = """
import http.server, os, signal, socketserver, sys, threading
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False
class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self): return "unix"
    def log_message(self, *_): pass
    def do_GET(self):
        body = b'{"status":"accepting"}' if self.path == "/health/accepting" else os.environ["WORD"].encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
if os.environ["WORD"] == "broken": sys.exit("WORD: is broken")
if os.path.lexists(os.environ["LLM_CALL_SOCKET"]): os.unlink(os.environ["LLM_CALL_SOCKET"])
server = Server(os.environ["LLM_CALL_SOCKET"], Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Project]:
    """A checkout whose API is the one above; ``word`` says what its environment is."""
    project = dataclasses.replace(config.load(ROOT), root=tmp_path)
    for name, text in (("llm_call/__init__.py", ""), ("llm_call/api.py", API)):
        (project.root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / "src" / name).write_text(text)
    word(project, "one")
    yield project
    host_api.stop(project)
    assert list((project.state / "api").iterdir()) == []
    assert not (project.state / "host-api.json").exists()


def word(project: Project, text: str) -> None:
    host_api.variables(project).parent.mkdir(exist_ok=True)
    host_api.variables(project).write_text(f"# For a shell\nPYTHONPATH={project.root}/src\nWORD={shlex.quote(text)}\n")


def says(project: Project) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(host_api.place(project)))
        client.sendall(b"GET /word HTTP/1.0\r\n\r\n")
        return client.makefile("rb").read().rpartition(b"\r\n\r\n")[2].decode()


def test_what_is_the_same_is_left_alone(ours: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_api.prepare(ours) == 1
    first = host_api.process(ours)
    assert host_api.prepare(ours) == 0
    host_api.take_over(ours)
    host_api.remind(ours)
    assert (host_api.process(ours), says(ours)) == (first, "one")
    assert f"runs on the host already (process {first})" in capsys.readouterr().err


def test_another_environment_is_another_process_and_somebody_always_serves(
    ours: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    host_api.start(ours)
    for text in ("two", "three"):  # the second one listens where the first one did not
        old = host_api.process(ours)
        word(ours, text)
        host_api.remind(ours)
        assert f"process {old} has an earlier WORD" in capsys.readouterr().err
        assert host_api.prepare(ours) == 0
        assert (host_api.process(ours), says(ours) == text) == (old, False)
        host_api.take_over(ours)
        assert (host_api.process(ours) == old, says(ours)) == (False, text)
        assert "WORD changed" in capsys.readouterr().err
        assert not Path(f"/proc/{old}/cwd").exists()


def test_other_code_is_another_process(ours: Project) -> None:
    host_api.start(ours)
    old = host_api.process(ours)
    (ours.root / "src/llm_call/api.py").write_text(API + "\n# more\n")
    host_api.start(ours)
    assert host_api.process(ours) not in (old, None)


def test_the_old_one_serves_on_where_the_new_one_does_not_start(ours: Project) -> None:
    host_api.start(ours)
    old = host_api.process(ours)
    word(ours, "broken")
    with pytest.raises(StackFailed, match="WORD: is broken"):
        host_api.start(ours)
    assert (host_api.process(ours), says(ours)) == (old, "one")
    word(ours, "one")
    host_api.start(ours)
    assert host_api.process(ours) == old


def test_one_that_waits_is_withdrawn(ours: Project) -> None:
    host_api.start(ours)
    word(ours, "two")
    host_api.prepare(ours)
    host_api.withdraw(ours)
    host_api.take_over(ours)
    assert says(ours) == "one"


def test_what_a_killed_command_left_waiting_is_ended(ours: Project) -> None:
    host_api.start(ours)
    word(ours, "two")
    host_api.prepare(ours)
    word(ours, "three")
    host_api.start(ours)
    assert says(ours) == "three"
    assert len(host_started.read(ours)) == 1


def test_a_person_s_own_stays_and_is_told(ours: Project, capsys: pytest.CaptureFixture[str]) -> None:
    host_api.place(ours).parent.mkdir()
    given = {
        **os.environ,
        "PYTHONPATH": f"{ours.root}/src",
        "WORD": "mine",
        "LLM_CALL_SOCKET": str(host_api.place(ours)),
    }
    with subprocess.Popen([sys.executable, "-m", "llm_call.api"], env=given, cwd=ours.root) as process:
        try:
            wait_until(lambda: host_api.process(ours) == process.pid, "its start")
            host_api.start(ours)
            said = capsys.readouterr().err
            assert f"runs on the host already (process {process.pid})" in said
            assert f"process {process.pid} has another WORD; you started it" in said
            assert says(ours) == "mine"
            host_api.stop(ours)
            assert process.poll() is None
        finally:
            process.terminate()
