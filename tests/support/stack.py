"""Checkouts with stacks of their own: what a user does with ./scripts/invoke, done by tests in a copy of the tree."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import shipyard
from tests.support.dispositions import by_default

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = "tests/support/doubles.yaml"
#: One per lane of ./scripts/nox, which run at the same time: what a lane builds, or breaks on purpose, is not another's.
VERSION = f"0.0.{os.environ.get('SHIPYARD_TEST_LANE', '0')}"
#: What a copy of the tree leaves out: state of this checkout, and what every run makes again.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".env", ".shipyard", "secrets", "models", "dist", ".nox", "__pycache__", ".*_cache"
)
_PORTS = (
    "LLM_CALL_API_PORT",
    "LLM_CALL_DEBUGGER_PORT",
    "CLAUDE_PROXY_PORT",
    "REDIS_PORT",
    "PROMETHEUS_PORT",
    "OLLAMA_PORT",
    "OPENAI_DOUBLE_PORT",
    "LLAMA_DOUBLE_PORT",
)


#: Below those that the kernel gives to connections and published ports (net.ipv4.ip_local_port_range): what is found free here
#: nobody gets by chance before it is used.
_FREE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Different ports on 127.0.0.1 that were free a moment ago."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            with suppress(OSError):
                sockets.append(socket.create_server(("127.0.0.1", secrets.choice(_FREE))))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def copy_tree(source: Path, target: Path) -> None:
    """The working tree as a new clone would have it, uncommitted changes included."""
    shutil.copytree(source, target, ignore=_LEFT_OUT, symlinks=True)


class Checkout:
    """A copy of the working tree with its own ports, secrets and Compose project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Tags of its own: what it builds, and may break on purpose, is nobody else's.
        (root / "VERSION").write_text(VERSION + "\n")
        self.extra = [root / DOUBLES]
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        lines = {
            **{name: str(port) for name, port in self.ports.items()},
            "EGRESS_HOST": "messages-api",
            "EGRESS_PORT": "9100",
            "EGRESS_TLS": "off",
            "UPSTREAM_OPENAI_BASE_URL": "http://openai-upstream:9200/v1",
            "HOST_UPSTREAM_OPENAI_BASE_URL": f"http://127.0.0.1:{self.ports['OPENAI_DOUBLE_PORT']}/v1",
            "UPSTREAM_OLLAMA_BASE_URL": "http://llama-server:9300/v1",
            "HOST_UPSTREAM_OLLAMA_BASE_URL": f"http://127.0.0.1:{self.ports['LLAMA_DOUBLE_PORT']}/v1",
        }
        (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        for name in ("egress/anthropic_api_key", "api/openai_api_key"):
            path = root / "secrets" / name
            path.parent.mkdir(parents=True)
            path.write_text(f"sk-test-{secrets.token_hex(16)}\n")
            path.chmod(0o444)

    def environment(self) -> dict[str, str]:
        """Without what pytest or nox put there for themselves; with the doubles as further services."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "PYTEST_"))}
        return {**kept, "SHIPYARD_COMPOSE_EXTRA": os.pathsep.join(map(str, self.extra))}

    def configure(self, **lines: str) -> None:
        """Add lines to .env; the last one of a name counts."""
        with (self.root / ".env").open("a") as settings:
            settings.writelines(f"{name}={value}\n" for name, value in lines.items())

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """`invoke` as a process of its own group, as a terminal would start it."""
        argv = [sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(by_default(argv), cwd=self.root, env=self.environment(), process_group=0, **pipes)

    def invoke(self, *words: str, status: int = 0, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end and hold it to its exit status."""
        process = self.start(*words)
        stdout, stderr = process.communicate(timeout=seconds)
        assert process.returncode == status, f"invoke {' '.join(words)}: {process.returncode}\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def json(self, *words: str) -> Any:
        """The one document that a `--json` verb prints."""
        return json.loads(self.invoke(*words, "--json").stdout)

    @property
    def key(self) -> str:
        """What a client presents."""
        return (self.root / "secrets/client_key").read_text().strip()

    def docker(self, *words: str) -> str:
        """A docker client's stdout."""
        engine = shipyard.engine.find()
        done = subprocess.run(
            [engine.docker, *words], check=False, env=engine.environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
        return done.stdout

    def compose(self, *words: str) -> str:
        """Plain Docker Compose in the checkout, as a person would call it who has no toolkit."""
        engine = shipyard.engine.find()
        extra = [word for file in self.extra for word in ("-f", str(file))]
        at = words.index("up") if "up" in words else words.index("down")
        argv = [engine.docker, "compose", *words[:at], *extra, *words[at:]]
        environment = {**engine.environment(), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            argv, check=False, cwd=self.root, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    @property
    def project(self) -> str:
        """The Compose project."""
        return shipyard.dotenv.project_name(self.root)

    def containers(self, service: str = "", *, stopped: bool = False) -> list[str]:
        """The ids of this checkout's containers, or of one service's."""
        filters = [f"label=com.docker.compose.project={self.project}"]
        filters += [f"label=com.docker.compose.service={service}"] if service else []
        words = [word for each in filters for word in ("--filter", each)]
        return self.docker("ps", "--quiet", "--no-trunc", *(["--all"] if stopped else []), *words).split()

    def container(self, service: str) -> str:
        """The id of a service's one container."""
        found = self.containers(service)
        assert len(found) == 1, f"{len(found)} containers of {service}"
        return found[0]

    def redis(self, *words: str) -> str:
        """What Redis answers the API's user."""
        password = (self.root / "secrets/api/redis_password").read_text().strip()
        user = ("redis-cli", "--no-auth-warning", "--user", "llm-call-api", "--pass", password)
        return self.docker("exec", self.container("redis"), *user, *words).strip()

    def started(self, service: str) -> str:
        """Since when a service's container runs."""
        return self.docker("inspect", "--format", "{{.State.StartedAt}}", self.container(service)).strip()

    @contextmanager
    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """One request to the API's published port, with the client's key unless another is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["LLM_CALL_API_PORT"], timeout=60)
        given = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **headers}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), given)
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON document and headers of an answer."""
        with self.request(method, path, body, **headers) as response:
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, json.loads(response.read()), found


@contextmanager
def checkout(folder: Path) -> Iterator[Checkout]:
    """A copy below ``folder`` whose stack and volumes are gone afterwards, whatever happened."""
    root = folder / "checkout"
    copy_tree(ROOT, root)
    copy = Checkout(root)
    try:
        yield copy
    finally:
        copy.invoke("down", "--volumes")


def served(port: int) -> bool:
    """Whether something accepts connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
