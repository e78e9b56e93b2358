"""Runs of the CLI's double behind the gate, and what a tool of theirs could send there: for the tests of the gate."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import Proxy, messages_api, running

MODEL = "claude-haiku-5-5"
KEYS = {
    "worker": "rpm=60 models=max/haiku tools=Bash",
    "few": "models=max/haiku tools=Bash calls=3",
    "small": "models=max/haiku tools=Bash tokens=30",
    "plain": "models=max/haiku",
    "agent": "tools=Bash,Task,WebSearch",
    "searcher": "models=max/haiku tools=WebSearch",
}
"""Keys by name, with what their lines allow; each token is `sk-` and its name."""


@dataclass
class Run:
    """A request whose CLI is at work, and the way to the gate that this CLI was given."""

    host: str
    port: int
    token: str

    def ask(self, text: str = "[[gap=0]] hello", *, model: str = MODEL, **more: Any) -> tuple[int, Any]:
        """A call of the model: the status, and the whole document or the events."""
        body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}
        return self.send(json.dumps(body).encode())

    def send(self, body: bytes, path: str = "/v1/messages?beta=true", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        given = {"x-api-key": self.token, "content-type": "application/json", "accept-encoding": "gzip", **headers}
        try:
            connection.request("POST", path, body, given)
            response = connection.getresponse()
            said = response.read()
            return response.status, json.loads(said) if "json" in response.headers["content-type"] else said
        finally:
            connection.close()

    def head(self, length: int, token: str | None = None) -> bytes:
        """The head of a request with a body of this length."""
        lines = ["POST /v1/messages HTTP/1.1", "host: gate", "content-type: application/json"]
        lines += [f"content-length: {length}", f"x-api-key: {self.token if token is None else token}", "", ""]
        return "\r\n".join(lines).encode()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=30)

    def raw(self, content: bytes) -> bytes:
        """Everything that comes back for these bytes, until the gate closes the connection."""
        found = b""
        with self.connect() as client:
            client.sendall(content)
            with contextlib.suppress(ConnectionResetError):
                while chunk := client.recv(65536):
                    found += chunk
        return found

    def seconds(self, text: str = "[[gap=0.02]] hello") -> float:
        """How long a streamed call takes."""
        begun = time.perf_counter()
        status, _ = self.ask(text, stream=True)
        assert status == 200
        return time.perf_counter() - begun


class Stack:
    """The proxy with its gate in front of a double of the provider."""

    def __init__(self, proxy: Proxy, provider: int) -> None:
        self.proxy, self.provider = proxy, provider

    @contextmanager
    def run(self, key: str = "worker", **fields: Any) -> Iterator[Run]:
        """A request of this key whose CLI does nothing until the end of the block."""
        stream = self.proxy.open_stream("stay", key=f"sk-{key}", model="max/haiku", **fields)
        try:
            text = next(
                each for each in stream.events() if each["choices"] and each["choices"][0]["delta"].get("content")
            )
            env = json.loads(text["choices"][0]["delta"]["content"])["env"]
            host, _, port = env["ANTHROPIC_BASE_URL"].removeprefix("http://").partition(":")
            yield Run(host, int(port), env["ANTHROPIC_API_KEY"])
        finally:
            stream.close()

    def served(self) -> int:
        """How many messages the provider was asked for."""
        return int(self._provider("GET", "/count")["count"])

    def last(self) -> Any:
        """What the provider was asked for at last."""
        return self._provider("GET", "/last")

    def _provider(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.provider, timeout=30)
        try:
            connection.request(method, path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def gated(folder: Path, **settings: str) -> Iterator[Stack]:
    """The proxy as in production: the credential is elsewhere, and its CLIs ask the gate."""
    cli = install(folder / "fake-claude")
    lines = [f"{name}:{hashlib.sha256(f'sk-{name}'.encode()).hexdigest()} {text}" for name, text in KEYS.items()]
    (folder / "keys").write_text("\n".join(lines))
    with messages_api() as port:
        given = {
            "CLAUDE_PROXY_CLI": str(cli),
            "CLAUDE_PROXY_KEYS_FILE": str(folder / "keys"),
            "CLAUDE_PROXY_CREDENTIAL": "egress",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        }
        with running(folder, {**given, **settings}) as proxy:
            yield Stack(proxy, port)
