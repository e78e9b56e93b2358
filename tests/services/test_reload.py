"""Hot reload of real processes: a save is served without a restart, and no open stream is cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import READY, ROOT, Service, chat, double, running, wait_until

MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[model."d/*"]
upstream = "double"
"""
LINE = '"object": "list"'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Service]:
    with double() as service:
        yield service


@pytest.fixture
def copy(tmp_path: Path, upstream: Service) -> Path:
    """A folder like the repository, free to be changed."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.toml").write_text(MODELS.format(port=upstream.port))
    return tmp_path


@contextlib.contextmanager
def serving(copy: Path, *more: str, **env: str) -> Iterator[Service]:
    command = ["-m", "llm_call.api", "--port", "0", "--reload", *more]
    with running(command, READY, {"DRAIN_SECONDS": "30", **env}, copy) as service:
        yield service


def version(service: Service) -> str:
    return str(service.get("/v1/models")[1]["object"])


def save(copy: Path, text: str) -> None:
    """Change the line that /v1/models answers with."""
    file = copy / "src" / "llm_call" / "api" / "models.py"
    source = (ROOT / "src" / "llm_call" / "api" / "models.py").read_text()
    assert LINE in source
    file.write_text(source.replace(LINE, text))


def test_a_saved_line_is_served_while_a_stream_stays_open(copy: Path) -> None:
    with serving(copy) as service:
        assert version(service) == "list"
        stream = service.open("POST", "/v1/chat/completions", _body(chunks=400, gap=0.02))
        assert b"echo: " in stream.readline()
        for number in range(3):
            save(copy, f'"object": "list{number}"')
            wait_until(lambda number=number: version(service) == f"list{number}", f"version {number}")
        stream.close()
        wait_until(lambda: service.output.count('"message":"stopped"') == 3, "the end of the old workers")
        assert service.stop() == 0


def test_the_open_stream_runs_to_its_end(copy: Path) -> None:
    with serving(copy) as service:
        stream = service.open("POST", "/v1/chat/completions", _body(chunks=60, gap=0.02))
        assert b"echo: " in stream.readline()
        save(copy, '"object": "other"')
        wait_until(lambda: version(service) == "other", "the new version")
        rest = stream.read()
        assert rest.count(b"data: ") == 59 + 2
        assert rest.endswith(b"data: [DONE]\n\n")


def test_no_request_is_refused_during_handovers(copy: Path) -> None:
    with serving(copy) as service:
        statuses: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                statuses.append(service.get("/v1/models")[0])

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            for number in range(4):
                save(copy, f'"object": "list{number}"')
                wait_until(lambda number=number: f"list{number}" == version(service), f"version {number}")
        finally:
            done.set()
            asker.join()
        assert set(statuses) == {200}


def test_a_syntax_error_keeps_the_old_code_until_it_is_mended(copy: Path) -> None:
    with serving(copy) as service:
        save(copy, '"object": "list')
        wait_until(lambda: service.find("the code before goes on serving"), "the report of the fault")
        assert "SyntaxError" in service.output
        assert version(service) == "list"
        save(copy, '"object": "mended"')
        wait_until(lambda: version(service) == "mended", "the mended version")


def test_a_change_of_the_shared_package_and_of_the_models_is_served_too(copy: Path) -> None:
    with serving(copy) as service:
        errors = copy / "src" / "serving" / "errors.py"
        errors.write_text(errors.read_text().replace("there is no such path", "nothing is here"))
        wait_until(lambda: "nothing is here" in str(service.get("/nope")[1]), "the new message")
        models = copy / "config" / "models.toml"
        models.write_text(models.read_text().replace("d/*", "new/*"))
        wait_until(lambda: service.post("/v1/chat/completions", chat("new/x"))[0] == 200, "the new model")


def test_wrong_settings_at_the_start_end_it_with_their_faults(copy: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"ended with 78:[\s\S]*LLM_CALL_CACHE_TTL"),
        serving(copy, LLM_CALL_CACHE_TTL="soon"),
    ):
        pass


def test_a_worker_that_dies_is_replaced(copy: Path) -> None:
    with serving(copy) as service:
        os.kill(_worker(service), signal.SIGKILL)
        wait_until(lambda: service.output.count('"message":"ready"') == 2, "another worker")
        assert version(service) == "list"


def test_workers_end_when_their_supervisor_is_killed(copy: Path) -> None:
    with serving(copy) as service:
        worker = _worker(service)
        service.stop(signal.SIGKILL)
        wait_until(lambda: not _alive(worker), "the end of the worker")
        wait_until(lambda: not _children_in(copy), "the end of everything in this folder")


def test_ctrl_c_ends_it_at_once(copy: Path) -> None:
    with serving(copy) as service:
        assert service.stop(signal.SIGINT, 3) == 0


def test_the_debugger_follows_the_newest_worker(copy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serving(copy, "--debugger", str(port)) as service:
        wait_until(lambda: service.find("debugger listens"), "the debugger", 10)
        stream = service.open("POST", "/v1/chat/completions", _body(chunks=200, gap=0.02))
        assert b"echo: " in stream.readline()
        save(copy, '"object": "debugged"')
        wait_until(lambda: version(service) == "debugged", "the new version")
        wait_until(lambda: service.output.count("debugger listens") == 2, "the debugger of the new worker", 10)
        assert b"Content-Length: " in _greet(port)
        assert b"data: " in stream.read(200)
        stream.close()


def test_a_debugger_needs_no_reload_and_listens_where_the_service_does(copy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["-m", "llm_call.api", "--port", "0"]
    with running(command, READY, {"DEBUGGER_PORT": str(port)}, copy) as service:
        wait_until(lambda: service.find(f'debugger listens".*"127.0.0.1:{port}"'), "the debugger", 10)
        assert b"Content-Length: " in _greet(port)
        assert version(service) == "list"
        assert service.stop() == 0


def test_where_there_is_no_debugger_the_service_says_so_and_goes_on(copy: Path) -> None:
    (copy / "src" / "debugpy.py").write_text("raise ImportError('as in the image prod')\n")
    command = ["-m", "llm_call.api", "--port", "0"]
    for more in ([], ["--reload"]):
        with running([*command, *more], READY, {"DEBUGGER_PORT": "5678"}, copy) as service:
            wait_until(
                lambda service=service: service.find("no debugger at port 5678: debugpy is not here"), "the word", 10
            )
            if more:
                save(copy, '"object": "new"')
                wait_until(lambda service=service: version(service) == "new", "the new version")
            assert service.stop() == 0


def _greet(port: int) -> bytes:
    """Send a debugger's first message and return the beginning of the answer."""
    message = b'{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"test"}}'
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(message), message))
        return connection.recv(4096)


def _body(**wish: float) -> bytes:
    return json.dumps(chat(stream=True, x_double=wish)).encode()


def _worker(service: Service) -> int:
    found = service.find(r'"message":"ready".*"pid":(\d+)')
    assert found
    return int(found[1])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children_in(folder: Path) -> list[int]:
    """Return the processes that work in `folder`."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if each.readlink() == folder and _alive(int(each.parent.name)):
                found.append(int(each.parent.name))
    return found
