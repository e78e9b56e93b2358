"""A production stack with doubles around it, and the keys with which it is attacked."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shipyard
from tests.support import intruder
from tests.support.outside import Outside
from tests.support.stack import Checkout, checkout

TOOLS = "tools=Bash,Read,Write"
CLIENTS = {"client": TOOLS, "other": TOOLS, "reader": ""}
"""Clients by name, with what their keys allow."""
ANSWER = "using it\n\nthe tool said: "
"""What the double of the Messages API says before a tool's output."""


class Attacked:
    """A running stack and its clients' keys."""

    def __init__(self, copy: Checkout, kind: str) -> None:
        self.copy, self.kind = copy, kind
        self.keys = {name: _key() for name in CLIENTS}
        self.granger = f"granger-{secrets.token_hex(4)}"
        self.since = time.time()

    def prepare(self, world: Outside) -> None:
        """Write keys and settings before anything starts; whoever asks for a name outside asks the stand-in."""
        self.copy.configure(GRANGER_NETWORK=self.granger)
        place = self.copy.root / "secrets"
        lines = [_line(name, self.keys[name], options) for name, options in CLIENTS.items()]
        _write(place / "client_key", self.keys["client"])
        _write(place / "api/api_keys", "\n".join(lines))
        proxy_key = _key()
        _write(place / "api/claude_proxy_key", proxy_key)
        _write(place / "claude-proxy/claude_proxy_keys", _line("llm-call-api", proxy_key, f"{TOOLS} mcp=listed"))
        (self.copy.root / "config/mcp.toml").write_text('[listed]\ncommand = "/usr/bin/true"\n')
        asked = ("llm-call-api", "claude-proxy", "egress", "redis", "messages-api", "openai-upstream")
        document = self.copy.root / "resolver.json"
        document.write_text(json.dumps({"services": {name: {"dns": [world.address]} for name in asked}}))
        self.copy.extra.append(document)

    def secrets(self) -> list[str]:
        """Every secret value of this checkout: what stands alone in its file."""
        texts = [path.read_text().split() for path in (self.copy.root / "secrets").rglob("*") if path.is_file()]
        return [*self.keys.values(), *(words[0] for words in texts if len(words) == 1)]

    @property
    def label(self) -> str:
        """By which the engine lists what belongs to this stack."""
        return f"com.docker.compose.project={shipyard.dotenv.project_name(self.copy.root)}"

    def services(self) -> dict[str, str]:
        """One container of each service, by the service's name."""
        listed = self.copy.docker("ps", "--quiet", "--filter", f"label={self.label}").split()
        found = json.loads(self.copy.docker("inspect", *listed))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each["Id"] for each in found}

    def ask(self, client: str, text: str, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any]:
        """A question to the CLI by the published port: status and answer."""
        body = {"model": "max/sonnet", "messages": [{"role": "user", "content": text}], **more}
        connection = http.client.HTTPConnection("127.0.0.1", self.copy.ports["LLM_CALL_API_PORT"], timeout=90)
        given = {"authorization": f"Bearer {self.keys[client]}", "content-type": "application/json", **(headers or {})}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), given)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def bash(self, command: str, client: str = "client", **more: Any) -> str:
        """What a command says that the model has the CLI's own Bash run."""
        status, body = self.ask(client, order("Bash", command=command), **more)
        assert status == 200, body
        text = body["choices"][0]["message"]["content"]
        assert text.startswith(ANSWER), text
        return str(text.removeprefix(ANSWER))

    def attempt(self, attempts: dict[str, list[str]], client: str = "client") -> dict[str, str]:
        """What became of attempts that the CLI's own Bash made."""
        said = self.bash(intruder.shell(attempts), client)
        try:
            found: dict[str, str] = json.loads(said)
        except ValueError:
            raise AssertionError(said) from None
        return found


def order(tool: str, **given: Any) -> str:
    """A prompt that makes the double of the Messages API use a tool."""
    return f"[[tool={tool} {json.dumps(given)}]]"


def masked(values: list[str]) -> str:
    """Secrets as hunters get them, see intruder/hunt.py."""
    return " ".join(bytes(byte ^ 0x55 for byte in value.encode()).hex() for value in values)


@contextmanager
def attacked(folder: Path, kind: str, world: Outside) -> Iterator[Attacked]:
    """A production stack of a kind (`prod` or `scaled`), gone afterwards."""
    with checkout(folder) as copy:
        stack = Attacked(copy, kind)
        stack.prepare(world)
        copy.invoke(*VERBS[kind])
        try:
            yield stack
        finally:
            copy.invoke("down")
            copy.docker("network", "rm", stack.granger)


VERBS = {"prod": ("prod", "--granger"), "scaled": ("prod", "--granger", "--scale", "llm-call-api=3")}


def _key() -> str:
    return f"llmc-{secrets.token_urlsafe(32)}"


def _line(name: str, key: str, options: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()} {options}".strip()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    path.chmod(0o400)
