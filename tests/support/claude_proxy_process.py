"""Starts the real proxy as a process of its own and talks to it: for the tests under tests/services."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOUBLE = Path(__file__).with_name("messages_api.py")


def wait_until(condition: Callable[[], Any], seconds: float, message: str) -> Any:
    """Return the condition's first true value; fail with the message after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            fault = f"after {seconds:g} s: {message}"
            raise AssertionError(fault)
        time.sleep(0.01)
    return value


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

    def chat(self, text: str, **fields: Any) -> Answer:
        return self.request("POST", "/v1/chat/completions", question(text, **fields))

    def open_stream(self, text: str, **fields: Any) -> Stream:
        return Stream(self.port, question(text, stream=True, **fields))

    def folders(self) -> list[Path]:
        """The folders of requests that exist now."""
        return [path for path in self.workspace.glob("proxy-*/*") if path.name != "lock"]

    def children(self) -> dict[int, str]:
        """The proxy's child processes and the state of each (Z: a zombie)."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                found[int(status.parent.name)] = fields[0]
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


class Stream:
    """An open SSE answer."""

    def __init__(self, port: int, body: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("POST", "/v1/chat/completions", body)
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
def running(folder: Path, settings: dict[str, str]) -> Iterator[Proxy]:
    """A proxy on a free port, ended at the end, with nothing of the caller's environment in its own."""
    log = folder / "proxy.log"
    workspace = folder / "workspace"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"CLAUDE_PROXY_WORKSPACE": str(workspace), "DRAIN_SECONDS": "0.2", **settings}
    argv = [sys.executable, "-m", "claude_proxy", "--port", "0"]
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

    return int(wait_until(ready, 20, "the proxy did not become ready"))


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
