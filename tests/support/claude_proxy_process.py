"""Starts the real proxy as a process of its own and talks to it: for the tests under tests/services."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.service import wait_until

ROOT = Path(__file__).parents[2]
DOUBLE = Path(__file__).with_name("messages_api.py")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.json()["choices"][0]["message"]["content"])

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


@dataclass
class Proxy:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    workspace: Path

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def chat(self, text: str, *, key: str = "", **fields: Any) -> Answer:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.request("POST", "/v1/chat/completions", question(text, **fields), headers)

    def metric(self, sample: str) -> float:
        """The value of one sample of GET /metrics, 0 when there is none yet."""
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))

    def open_stream(self, text: str, *, key: str = "", **fields: Any) -> Stream:
        return Stream(self.port, question(text, stream=True, **fields), key)

    def folders(self) -> list[Path]:
        """The folders of requests that exist now."""
        return [path for path in self.workspace.glob("proxy-*/*") if path.name != "lock"]

    def descendants(self) -> dict[int, str]:
        """Every process below the proxy but its launcher and its gate, and the state of each (Z: a zombie)."""
        found = {self.process.pid}
        processes = _processes()
        while more := {pid for pid, (parent, _) in processes.items() if parent in found} - found:
            found |= more
        return {pid: processes[pid][1] for pid in found if processes[pid][0] not in (os.getpid(), self.process.pid)}

    def launcher(self) -> int:
        """The process id of the launcher."""
        return self._child("claude_proxy.launcher")

    def gate(self) -> int:
        """The process id of the gate."""
        return self._child("claude_proxy.gate")

    def _child(self, module: str) -> int:
        mine = [pid for pid, (parent, state) in _processes().items() if parent == self.process.pid and state != "Z"]
        (pid,) = [pid for pid in mine if f"\0{module}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pid

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def _processes() -> dict[int, tuple[int, str]]:
    """Every process with its parent and its state."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text("utf-8", "replace").rpartition(")")[2].split()
            found[int(status.parent.name)] = (int(fields[1]), fields[0])
    return found


class Stream:
    """An open SSE answer."""

    def __init__(self, port: int, body: bytes, key: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connection.request("POST", "/v1/chat/completions", body, headers)
        self.response = self._connection.getresponse()

    def events(self) -> Iterator[Any]:
        """Every event's document, `[DONE]` as the text itself."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)

    def close(self) -> None:
        # The response owns the socket: closing the connection alone would leave it open.
        self.response.close()
        self._connection.close()


def question(text: str, **fields: Any) -> bytes:
    return json.dumps({"model": "max/sonnet", "messages": [{"role": "user", "content": text}], **fields}).encode()


def said(events: list[Any]) -> str:
    """The text of a stream's chunks."""
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@contextmanager
def running(folder: Path, settings: dict[str, str], prefix: Sequence[str] = ()) -> Iterator[Proxy]:
    """A proxy on a free port, ended at the end, with nothing of the caller's environment in its own.

    `prefix` are the words of a program that runs it in its turn, such as setpriv.
    """
    log = folder / "proxy.log"
    workspace = folder / "workspace"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    # The interpreter is what the CLI's double runs in; none starts ahead unless a test is about that.
    env |= {"CLAUDE_PROXY_READABLE": sys.base_prefix, "CLAUDE_PROXY_PRESTART": "0", "CLAUDE_PROXY_MAX_PROCESSES": "4"}
    env |= {"CLAUDE_PROXY_WORKSPACE": str(workspace), "DRAIN_SECONDS": "0.2", **settings}
    argv = [*prefix, sys.executable, "-m", "claude_proxy", "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(argv, env=env, stdout=stream, stderr=stream, cwd=folder)
    try:
        yield Proxy(process, _port(process, log), log, workspace)
    finally:
        # Not by SIGKILL, which would leave the CLIs of a hanging request behind.
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    def ready() -> int:
        if process.poll() is not None:
            fault = f"the proxy ended with {process.returncode}: {log.read_text()}"
            raise AssertionError(fault)
        for line in log.read_text().splitlines():
            if '"ready"' in line:
                return int(json.loads(line)["address"].rpartition(":")[2])
        return 0

    return int(wait_until(ready, "the proxy did not become ready", 20))


@contextmanager
def messages_api() -> Iterator[int]:
    """The double of the Messages API on a free port; yields the port."""
    process = subprocess.Popen([sys.executable, str(DOUBLE), "--port", "0"], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(b":")[2])
    finally:
        process.kill()
        process.communicate(timeout=10)


SECRET = "sk-a-secret-of-this-test"
Start = Callable[..., AbstractContextManager[Proxy]]
"""Starts the proxy with settings of a test's own."""


def alive(cli: Path) -> list[int]:
    """Every process that came of the double, wherever it has gone; a zombie has no command line any more."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(cli) in line.read_bytes():
                found.append(int(line.parent.name))
    return found


def gone(cli: Path, seconds: float = 10.0) -> None:
    """Fail unless nothing that came of the double is left in time."""
    wait_until(lambda: not alive(cli), f"still running: {alive(cli)}", seconds)
