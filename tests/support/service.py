"""Starts one of our services as a real process on 127.0.0.1 and talks to it over plain sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 20.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Return the first true value of `condition`; fail with `what`, awaited or wrong until then, when it does not come in time.

    To ask may cost a process, and others wait for the cores: most of the time is left to them.
    """
    end = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            msg = f"waited {seconds:g} s: {what}"
            raise AssertionError(msg)
        time.sleep(min(1.0, max(0.01, 2 * (time.monotonic() - begun))))


class Service:
    """A running process whose output goes to a file, and the port it listens on."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = 0

    @property
    def output(self) -> str:
        return self._log.read_text()

    def find(self, pattern: str) -> re.Match[str] | None:
        if self.process.poll() is not None:
            msg = f"ended with {self.process.returncode}:\n{self.output}"
            raise AssertionError(msg)
        return re.search(pattern, self.output)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, None, headers)[:2]

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        return self.ask("POST", path, json.dumps(body).encode(), headers)

    def ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Return status, parsed JSON (or the bytes) and headers with lower-case names."""
        connection, response = self._request(method, path, body, headers)
        with contextlib.closing(connection):
            data = response.read()
            kind = response.headers.get("content-type", "")
            return response.status, json.loads(data) if "json" in kind else data, _lower(response)

    def open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Return one of our services' response as soon as its head is here; closing it closes the connection."""
        # The response owns the socket as soon as the service has announced that it closes the connection.
        return self._request(method, path, body, headers or {})[1]

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {**given, "connection": "close"})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


@contextlib.contextmanager
def running(
    command: Sequence[str],
    ready: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    python: str = sys.executable,
) -> Iterator[Service]:
    """Run `python COMMAND` until the block ends; `ready` is a pattern in its output whose first group is the port."""
    source = str(cwd / "src")
    full = {"PATH": os.environ["PATH"], "PYTHONPATH": source, "PYTHONUNBUFFERED": "1", **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen([python, *command], env=full, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        service = Service(process, log)
        try:
            found = wait_until(lambda: service.find(ready), f"{ready} of {' '.join(command)}", START_SECONDS)
            service.port = int(found[1])
            yield service
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


READY = r'"message":"ready".*"address":"127\.0\.0\.1:(\d+)"'
"""What our services log once they accept requests."""


def double() -> contextlib.AbstractContextManager[Service]:
    """Run the OpenAI-wire upstream double."""
    return running(["tests/support/openai_upstream.py"], r"listening on 127\.0\.0\.1:(\d+)")


def chat(model: str = "d/one", text: str = "hi", **more: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}
